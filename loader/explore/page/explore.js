// The page: what is chosen on it, what it asks the server, and what it shows.

import { arranged, canvas, element, extent, unpack } from "./drawing.js";

const PAUSE = 40; // milliseconds without a keystroke before the server is asked
const SIDE = 224; // side of what is shown together, in pixels of the screen, if it is enlarged
const FEW = 16; // views or grids of a record that are enlarged
const $ = (id) => document.getElementById(id);

let about;
const shared = { first: "0", count: "6", seed: "0", epoch: "0", zoom: "0", compare: "" };
const sources = new Map(); // by record number, the promise of what is shown left of its views

// A request by GET. Raises an Error with what the server says.
async function ask(name, parameters, signal) {
  const response = await fetch(`${name}?${new URLSearchParams(parameters)}`, { signal });
  if (response.ok) return response;
  let reason = `${response.status} ${response.statusText}`;
  if (response.status === 414) reason = "the pipeline is too long for this page";
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error || reason);
}

// One of the two pipelines: its field, and its column of views.
class Panel {
  constructor(name) {
    this.name = name;
    this.reader = crypto.randomUUID();
    this.turn = 0;
    this.form = $("panel").content.firstElementChild.cloneNode(true);
    this.form.dataset.name = name;
    const find = (selector) => this.form.querySelector(selector);
    [this.field, this.mirror, this.message] = ["textarea", ".mirror", ".message"].map(find);
    [this.preset, this.copyPython] = [".preset", ".copy-python"].map(find);
    for (const preset of Object.keys(about.presets)) this.preset.append(new Option(preset));
    for (const input of this.form.querySelectorAll("[type=radio]")) {
      input.name = `mode-${name}`;
      input.checked = input.value === "training";
      input.addEventListener("change", () => this.changed());
    }
    this.preset.addEventListener("change", () => {
      if (this.preset.value) this.text = about.presets[this.preset.value];
      this.changed();
    });
    this.field.addEventListener("input", () => this.changed(PAUSE));
    this.field.addEventListener("keydown", (event) => this.turnNumber(event));
    find(".copy-sentence").addEventListener("click", (event) => copy(event.target, this.text));
    this.copyPython.addEventListener("click", (event) => copy(event.target, this.python));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    $("panels").append(this.form);
  }

  get text() { return this.field.value; }
  set text(text) { this.field.value = text; }
  get mode() { return this.form.querySelector(":checked[type=radio]").value; }
  set mode(mode) {
    for (const input of this.form.querySelectorAll("[type=radio]")) input.checked = input.value === mode;
  }

  changed(pause = 0) {
    remember();
    this.write();
    clearTimeout(this.timer);
    this.since = performance.now();
    if (pause) this.timer = setTimeout(() => this.load(), pause);
    else this.load();
  }

  // The field is as high as its text, and a step that was wrong is not marked any more.
  write(place = null) {
    const [begin, end] = place || [0, 0];
    const text = [...this.text]; // the server counts characters, as this does
    this.mirror.replaceChildren(text.slice(0, begin).join(""));
    if (end > begin) this.mirror.append(element("mark", "", text.slice(begin, end).join("")));
    this.mirror.append(text.slice(end).join("") + "\n");
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
    const name = this.text.trim().toUpperCase();
    const same = ([preset, text]) => preset === name || text === this.text;
    this.preset.value = (Object.entries(about.presets).find(same) || [""])[0];
  }

  // With the cursor in a number, Alt and an arrow change it by one unit of its last place.
  turnNumber(event) {
    const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!sign || !event.altKey) return;
    event.preventDefault();
    const at = this.field.selectionStart;
    for (const match of this.text.matchAll(/(?<![\w.])-?\d+(\.\d+)?/g)) {
      const end = match.index + match[0].length;
      if (at < match.index || at > end) continue;
      const places = (match[1] || ".").length - 1;
      const value = Number(match[0]) + (sign * (event.shiftKey ? 10 : 1)) / 10 ** places;
      this.field.setRangeText(value.toFixed(places), match.index, end, "end");
      this.changed(PAUSE);
      return;
    }
  }

  async load() {
    if (this.request) this.request.abort();
    const request = (this.request = new AbortController());
    const slow = setTimeout(() => this.column((views) => views.classList.add("stale")), 150);
    const { first, count, seed, epoch } = shared;
    const choice = { pipeline: this.text, mode: this.mode, record: first, count, seed, epoch };
    try {
      const parameters = { ...choice, reader: this.reader, turn: ++this.turn };
      const response = await ask("views", parameters, request.signal);
      const answer = unpack(await response.arrayBuffer());
      if (request !== this.request) return;
      this.show(answer);
      trouble("");
    } catch (error) {
      if (error.name !== "AbortError" && request === this.request) trouble(error.message);
    } finally {
      clearTimeout(slow);
    }
  }

  show(answer) {
    this.form.classList.toggle("wrong", Boolean(answer.error));
    this.copyPython.disabled = Boolean(answer.error);
    this.write(answer.place);
    if (answer.error) {
      // The views of the last pipeline that was possible stay, and are seen to be old.
      this.message.textContent = answer.error;
      if (!$("records").children.length) makeRows(answer.numbers);
      this.column((views) => views.classList.add("stale"));
      return;
    }
    this.python = answer.python;
    const branches = answer.records.flatMap((record) => record.branches);
    this.extent = Math.max(1, ...branches.map((branch) => extent(branch, answer.pictures)));
    makeRows(answer.numbers);
    for (const record of answer.records) {
      const views = $(`record-${record.number}`).querySelector(`.views.${this.name}`);
      views.classList.remove("stale");
      views.replaceChildren();
      if (record.error) views.append(element("p", "error", record.error));
      for (const branch of record.branches) {
        // A single view has a title, too.
        const alone = { title: "", columns: 0, parts: [{ ...branch, title: "view" }] };
        const shown = branch.picture === undefined ? branch : alone;
        views.append(arranged(shown, answer.pictures, [`record ${record.number}`]));
      }
    }
    this.zoom();
    requestAnimationFrame(() => {
      const time = `${Math.round(performance.now() - this.since)} ms`;
      this.message.textContent = [answer.views, ...answer.notes, time].join(" · ");
    });
  }

  // Whole factors show each pixel of a view as it is. Without a choice, a few small views are
  // enlarged, and views that are wider than their column are made smaller.
  zoom() {
    const column = document.querySelector(`.views.${this.name}`);
    if (!column || !this.extent) return;
    const count = column.querySelectorAll(".parts:not(.grid) > figure > canvas, .grid").length;
    const factor = count > FEW ? 1 : Math.floor(SIDE / this.extent);
    const widest = (column.clientWidth - 30) / this.extent; // less the gaps in a grid
    const scale = Number(shared.zoom) || Math.min(Math.max(1, factor), widest);
    this.column((views) => {
      views.style.setProperty("--scale", scale);
      views.classList.toggle("enlarged", scale >= 1);
    });
  }

  column(change) {
    document.querySelectorAll(`.views.${this.name}`).forEach(change);
  }
}

// A row for each of these records, with the columns of all panels.
function makeRows(numbers) {
  const present = [...$("records").children].map((row) => row.id);
  if (present.join() === numbers.map((number) => `record-${number}`).join()) return;
  $("records").replaceChildren(...numbers.map((number) => {
    const row = element("article", "record");
    row.id = `record-${number}`;
    const left = element("div", "source");
    left.append(element("h2", "", `record ${number}`));
    row.append(left, ...panels().map((panel) => element("div", `views ${panel.name}`)));
    source(number).then((nodes) => left.replaceChildren(...nodes), (error) => trouble(error.message));
    return row;
  }));
}

function source(number) {
  if (!sources.has(number)) {
    if (sources.size >= 500) sources.delete(sources.keys().next().value);
    sources.set(number, loadSource(number));
    sources.get(number).catch(() => sources.delete(number));
  }
  return sources.get(number);
}

async function loadSource(number) {
  const response = await ask("source", { record: number });
  const answer = unpack(await response.arrayBuffer());
  const nodes = answer.pictures.map((picture) => {
    const shown = canvas(picture, `record ${number} itself`);
    const side = Math.max(picture.height, picture.width);
    shown.style.width = `${picture.width * (side > 160 ? 160 / side : Math.floor(160 / side))}px`;
    shown.classList.toggle("small", side <= 160);
    return shown;
  });
  nodes.push(element("h2", "", `record ${number}`));
  if (answer.label) nodes.push(element("p", "label", answer.label));
  if (answer.size) nodes.push(element("p", "size", `${answer.size.join("x")} pixels`));
  nodes.push(element("p", "place", answer.place.split("/").pop()));
  nodes[nodes.length - 1].title = answer.place;
  return nodes;
}

async function copy(button, text) {
  const before = button.dataset.text || (button.dataset.text = button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch (error) {
    trouble(`the browser does not let this page copy: ${error.message}`);
  }
  setTimeout(() => { button.textContent = before; }, 1200);
}

function trouble(text) {
  $("trouble").textContent = text === "Failed to fetch" ? "the server does not answer: has it ended?" : text;
}

let both = [];
const panels = () => both.slice(0, shared.compare ? 2 : 1);

function loadAll(pause = 0) {
  remember();
  for (const name of ["first", "seed", "epoch"]) {
    if ($(name).value !== shared[name]) $(name).value = shared[name];
  }
  $("previous").disabled = Number(shared.first) <= 0;
  $("next").disabled = Number(shared.first) + Number(shared.count) >= about.records;
  for (const panel of panels()) panel.changed(pause);
}

// Other records, within the data set.
function go(records) {
  const last = Math.max(0, about.records - 1);
  shared.first = String(Math.min(last, Math.max(0, Number(shared.first) + records)));
  loadAll();
  scrollTo(0, 0);
}

function drawAgain() {
  shared.seed = String(BigInt.asUintN(64, BigInt(/^\d+$/.test(shared.seed) ? shared.seed : 0) + 1n));
  loadAll();
}

function compare(on) {
  shared.compare = on ? "on" : "";
  $("compare").checked = on;
  document.body.classList.toggle("comparing", on);
  both[1].form.hidden = !on;
  if (on && !both[1].text) [both[1].text, both[1].mode] = [both[0].text, both[0].mode];
  $("records").replaceChildren();
  loadAll();
}

// The address keeps what is chosen, so that reloading the page changes nothing.
function remember() {
  const chosen = { ...shared };
  panels().forEach((panel, number) => {
    chosen[`pipeline${number}`] = panel.text;
    chosen[`mode${number}`] = panel.mode;
  });
  history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
}

function recall() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(shared)) shared[name] = chosen.get(name) ?? shared[name];
  both.forEach((panel, number) => {
    const usual = number ? "" : about.presets[about.pipeline.toUpperCase()] || about.pipeline;
    panel.text = chosen.get(`pipeline${number}`) ?? usual;
    panel.mode = chosen.get(`mode${number}`) ?? "training";
  });
  for (const name of ["first", "count", "seed", "epoch", "zoom"]) $(name).value = shared[name];
}

function listSteps() {
  for (const step of about.steps) {
    const details = element("details");
    const summary = element("summary");
    summary.append(element("code", "", step.written));
    details.append(summary, element("pre", "", step.text));
    $("step-list").append(details);
  }
}

async function begin() {
  about = await (await ask("about", {})).json();
  $("title").textContent = `${about.title} · ${about.records.toLocaleString("en")} records`;
  document.title = `${about.title} · pretexture explore`;
  $("faults").hidden = !about.faults.length;
  $("faults").open = true;
  $("faults").firstElementChild.textContent = "Of a broken shard, what follows the damage is left out:";
  $("faults").lastElementChild.append(...about.faults.map((fault) => element("li", "", fault)));
  both = [new Panel("a"), new Panel("b")];
  listSteps();
  recall();

  for (const name of ["first", "seed", "epoch"]) {
    $(name).addEventListener("input", () => { shared[name] = $(name).value.trim(); loadAll(PAUSE); });
  }
  $("count").addEventListener("change", () => { shared.count = $("count").value; loadAll(); });
  $("zoom").addEventListener("change", () => {
    shared.zoom = $("zoom").value;
    remember();
    panels().forEach((panel) => panel.zoom());
  });
  $("compare").addEventListener("change", () => compare($("compare").checked));
  $("previous").addEventListener("click", () => go(-Number(shared.count)));
  $("next").addEventListener("click", () => go(Number(shared.count)));
  $("again").addEventListener("click", drawAgain);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) drawAgain();
    else if (event.target.matches("textarea")) return;
    else if (event.key === "PageDown" && !$("next").disabled) go(Number(shared.count));
    else if (event.key === "PageUp" && !$("previous").disabled) go(-Number(shared.count));
    else return;
    event.preventDefault();
  });
  addEventListener("resize", () => panels().forEach((panel) => { panel.write(); panel.zoom(); }));
  compare(Boolean(shared.compare));
}

begin().catch((error) => trouble(error.message));
