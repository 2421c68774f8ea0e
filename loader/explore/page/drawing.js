// Answers of the server, and how their pictures are drawn.

// An answer is the length of its JSON, the JSON, and the pixels of all pictures, three bytes each.
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const answer = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let begin = 4 + length;
  answer.pictures = answer.pictures.map(([height, width]) => {
    const pixels = new Uint8Array(buffer, begin, height * width * 3);
    begin += pixels.length;
    return { height, width, pixels };
  });
  return answer;
}

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

export function canvas({ height, width, pixels }, label) {
  const made = element("canvas");
  made.height = height;
  made.width = width;
  made.style.setProperty("--width", width);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  made.title = `${label}, ${height}x${width} pixels`;
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

// What the server arranged: a picture, or parts in a row or in a grid.
export function arranged(node, pictures, path) {
  const titles = node.title ? [...path, node.title] : path;
  if (node.picture !== undefined) return canvas(pictures[node.picture], titles.join(", "));
  const parts = element("div", node.columns ? "parts grid" : "parts");
  if (node.columns) {
    const columns = Math.min(node.columns, node.parts.length);
    parts.style.gridTemplateColumns = `repeat(${columns}, max-content)`;
  }
  for (const part of node.parts) {
    const figure = element("figure");
    if (part.title || node.columns) figure.append(element("figcaption", "", part.title));
    figure.append(isEmpty(part) ? emptyCell(node, pictures) : arranged(part, pictures, titles));
    parts.append(figure);
  }
  return parts;
}

const isEmpty = (node) => node.picture === undefined && !node.parts.length;

// As large as the pictures in the same grid.
function emptyCell(grid, pictures) {
  const { height, width } = pictures[grid.parts.find((part) => !isEmpty(part)).picture];
  const cell = element("div", "empty");
  cell.style.setProperty("--width", width);
  cell.style.aspectRatio = `${width} / ${height}`;
  return cell;
}

// The side of what is shown together, in pixels of a view: a view, or a grid of them.
export function extent(node, pictures) {
  if (node.picture !== undefined) {
    return Math.max(pictures[node.picture].height, pictures[node.picture].width);
  }
  return Math.max(1, node.columns) * Math.max(0, ...node.parts.map((part) => extent(part, pictures)));
}
