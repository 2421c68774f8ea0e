import json
import os
import signal
import subprocess
import sys
import time

import pytest
from pretexture.scripts import launch

SCRIPT = launch.__file__
SECRET = "the secret of a test"
SAY = "import os, sys; print(*(os.environ.get(n, '-') for n in sys.argv[1:]))"


def _start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **environment},
    )


def _run(*arguments, **environment):
    """Runs the command; returns the exit status and the lines of both outputs."""
    process = _start(*arguments, **environment)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output.splitlines(), errors.splitlines()


def _say(*names):
    return ["--", sys.executable, "-c", SAY, *names]


def test_output_lines_begin_with_the_process_number():
    program = "import sys; print('out'); print('err', file=sys.stderr)"
    status, output, errors = _run("--nproc", "2", "--", sys.executable, "-c", program)
    assert (status, sorted(output), sorted(errors)) == (
        0,
        ["[0] out", "[1] out"],
        ["[0] err", "[1] err"],
    )


def test_each_process_is_a_worker_of_the_same_cluster():
    _, output, _ = _run("--nproc", "3", *_say("TF_CONFIG", "CUDA_VISIBLE_DEVICES"))
    clusters = set()
    for number, line in enumerate(sorted(output)):
        prefix, rest = line.split(" ", 1)
        config, gpu = rest.rsplit(" ", 1)
        config = json.loads(config)
        assert (prefix, gpu) == (f"[{number}]", str(number))
        assert config["task"] == {"type": "worker", "index": number}
        clusters.add(tuple(config["cluster"]["worker"]))
    (workers,) = clusters
    assert len(set(workers)) == 3 and all(w.startswith("127.0.0.1:") for w in workers)


def test_a_single_process_has_no_cluster():
    assert _run("--nproc", "1", *_say("TF_CONFIG"))[1] == ["[0] {}"]


def test_each_process_gets_one_visible_gpu():
    _, output, _ = _run("--nproc", "2", *_say("CUDA_VISIBLE_DEVICES"), CUDA_VISIBLE_DEVICES="3,5,7")
    assert sorted(output) == ["[0] 3", "[1] 5"]


def test_hidden_gpus_stay_hidden_and_too_few_gpus_are_an_error():
    _, output, _ = _run("--nproc", "2", *_say("CUDA_VISIBLE_DEVICES"), CUDA_VISIBLE_DEVICES="")
    assert sorted(output) == ["[0] ", "[1] "]
    status, _, errors = _run("--nproc", "3", *_say("A"), CUDA_VISIBLE_DEVICES="3,5")
    assert status == 1 and errors == ["error: --nproc 3: CUDA_VISIBLE_DEVICES has 2 GPUs, 3,5"]


def test_processes_are_numbered_across_machines_with_known_ports():
    hosts = ("--hosts", "127.0.0.1:4000,127.0.0.2", "--host-index", "1")
    _, output, _ = _run("--nproc", "2", *hosts, *_say("TF_CONFIG"), PRETEXTURE_SECRET=SECRET)
    for number, line in enumerate(sorted(output), 2):
        prefix, config = line.split(" ", 1)
        config = json.loads(config)
        assert prefix == f"[{number}]" and config["task"]["index"] == number
        ports = ("127.0.0.1:4000", "127.0.0.1:4001", "127.0.0.2:29500", "127.0.0.2:29501")
        assert config["cluster"]["worker"] == list(ports)


def test_processes_of_one_machine_share_a_new_secret():
    found = set()
    for _ in range(2):
        _, output, _ = _run("--nproc", "2", *_say("PRETEXTURE_SECRET"))
        (secret,) = {line.split(" ", 1)[1] for line in output}
        assert len(secret) == 32
        found.add(secret)
    assert len(found) == 2


def test_a_given_secret_is_passed_on_and_is_required_for_several_machines():
    _, output, _ = _run("--nproc", "2", *_say("PRETEXTURE_SECRET"), PRETEXTURE_SECRET=SECRET)
    assert sorted(output) == [f"[0] {SECRET}", f"[1] {SECRET}"]
    hosts = ("--hosts", "127.0.0.1,127.0.0.2", "--host-index", "0")
    status, output, errors = _run("--nproc", "1", *hosts, *_say("A"), PRETEXTURE_SECRET="")
    assert status == 1 and not output
    assert errors[-1].startswith("error: PRETEXTURE_SECRET is not set: several workers need a")


def _table(path, *ranks, first_device=0):
    devices = [
        {"device_id": str(first_device + i), "device_ip": "", "rank_id": str(rank)}
        for i, rank in enumerate(ranks)
    ]
    path.write_text(json.dumps({"server_list": [{"server_id": "a", "device": devices}]}))
    return str(path)


def test_npu_processes_get_hccl_variables_and_no_tf_config(tmp_path):
    table = _table(tmp_path / "table.json", 0, 1, first_device=4)
    names = ("RANK_ID", "RANK_SIZE", "ASCEND_DEVICE_ID", "TF_CONFIG", "RANK_TABLE_FILE", "JOB_ID")
    for flag in (("--device", "npu"), ("--device=npu",)):
        _, output, _ = _run("--nproc", "2", "--rank-table", table, *_say(*names), *flag, JOB_ID="7")
        words = [line.split()[:7] for line in sorted(output)]
        assert words == [[f"[{i}]", str(i), "2", str(i + 4), "{}", table, "7"] for i in range(2)]


def test_rank_table_of_one_machine_comes_from_huaweis_driver(tmp_path):
    hccn = tmp_path / "hccn.conf"
    hccn.write_text("address_0=192.168.1.8\nnetmask_0=255.255.0.0\naddress_1=192.168.2.8\n")
    program = (
        "import sys; from pretexture.scripts import launch; "
        "from pretexture.trainers.launch import rank_table; "
        f"rank_table.HCCN = {str(hccn)!r}; sys.exit(launch.main())"
    )
    show = "import os; print(open(os.environ['RANK_TABLE_FILE']).read().replace('\\n', ''))"
    tail = ["--", sys.executable, "-c", show, "--device", "npu"]
    output = subprocess.check_output(
        [sys.executable, "-c", program, "--nproc", "2", *tail], encoding="utf-8"
    )
    table = json.loads(output.splitlines()[0].split(" ", 1)[1])
    devices = [
        {"device_id": str(i), "device_ip": f"192.168.{i + 1}.8", "rank_id": str(i)}
        for i in range(2)
    ]
    assert table["server_list"][0]["device"] == devices
    assert (table["version"], table["server_count"], table["status"]) == ("1.0", "1", "completed")

    tail[0:0] = ["--nproc", "3"]
    process = subprocess.run([sys.executable, "-c", program, *tail], stderr=subprocess.PIPE)
    assert process.returncode == 1
    assert b"has no address of NPU 2" in process.stderr


FAIL_ONE = """
import os, sys, time
if '"index": 1' in os.environ["TF_CONFIG"]:
    sys.exit("what went wrong")
time.sleep(100)
"""


def test_if_one_process_fails_all_end_and_its_error_comes_last():
    began = time.monotonic()
    status, _, errors = _run("--nproc", "3", "--", sys.executable, "-c", FAIL_ONE)
    assert status == 1
    assert errors[-2:] == [
        "launch: process 1 ended with status 1; its last words:",
        "[1] what went wrong",
    ]
    assert time.monotonic() - began < 90  # the others were ended while they slept


def test_a_killed_process_is_named_with_the_signal():
    program = "import os; os.kill(os.getpid(), 9)"
    status, _, errors = _run("--nproc", "1", "--", sys.executable, "-c", program)
    assert status == 128 + 9
    assert errors == ["launch: process 0 was killed by SIGKILL"]


def test_restarts_repeat_a_failed_command(tmp_path):
    program = (
        f"import os, sys; path = {str(tmp_path / 'tries')!r}; open(path, 'a').write('x'); "
        "sys.exit(os.path.getsize(path) < 3)"
    )
    flags = ("--nproc", "1", "--restarts", "5")
    status, _, errors = _run(*flags, "--", sys.executable, "-c", program)
    assert status == 0 and (tmp_path / "tries").read_text() == "xxx"
    assert [line for line in errors if "restart" in line] == [
        "launch: restart 1 of 5",
        "launch: restart 2 of 5",
    ]


@pytest.mark.parametrize("status", [2, 128 + signal.SIGTERM])
def test_wrong_flags_and_requested_ends_are_not_restarted(status):
    program = f"import sys; sys.exit({int(status)})"
    found, _, errors = _run("--nproc", "1", "--restarts", "3", "--", sys.executable, "-c", program)
    assert found == status
    assert not any("restart" in line for line in errors)


def test_a_second_signal_kills():
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('ready'); time.sleep(100)\n"
    )
    process = _start("--nproc", "1", "--", sys.executable, "-c", program)
    assert "ready" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize("seconds", [0.5, 3.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_once_and_prevents_restarts(number, seconds):
    program = (
        "import os, signal, sys, time\n"
        "def say(words):\n"  # unlike print, this works in the middle of another print, too
        "    os.write(1, f'{words}\\n'.encode())\n"
        "def end(number, frame):\n"
        "    say(f'signal {int(number)}'); time.sleep(SECONDS); say('saved')\n"
        "    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGINT, end); signal.signal(signal.SIGTERM, end)\n"
        "print('ready'); time.sleep(100)\n"
    ).replace("SECONDS", str(seconds))
    process = _start("--nproc", "2", "--restarts", "1", "--", sys.executable, "-c", program)
    lines = [process.stdout.readline() for _ in range(2)]
    assert all("ready" in line for line in lines)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    words = sorted(output.splitlines())
    passed_on = signal.SIGTERM if number == signal.SIGHUP else number
    words_of_each = ("saved", f"signal {int(passed_on)}")
    expected = [f"[{i}] {word}" for i in range(2) for word in words_of_each]
    assert words == expected and errors == ""


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--nproc", "2"], "give a command after --"),
        (["--nproc", "0", "--", "a"], "must be 1 or more, not 0"),
        (["--nproc", "1", "--hosts", ",", "--", "a"], "must be names or addresses"),
        (["--nproc", "1", "--hosts", "a:b", "--", "a"], "must be HOST or HOST:PORT, not 'a:b'"),
        (
            ["--nproc", "1", "--hosts", "127.0.0.1,localhost", "--", "a"],
            "more than one of --hosts 127.0.0.1,localhost is this machine: say which one",
        ),
        (
            ["--nproc", "1", "--hosts", "203.0.113.1,203.0.113.2", "--", "a"],
            "none of --hosts 203.0.113.1,203.0.113.2 is this machine",
        ),
        (
            ["--nproc", "1", "--host-index", "1", "--", "a"],
            "--host-index 1: there are 1 hosts",
        ),
        (["--nproc", "2", "--", "x", "--device", "npu"], "--rank-table FILE is needed"),
        (
            ["--nproc", "2", "--rank-table", "none.json", "--", "x", "--device", "npu"],
            "No such file",
        ),
        (["--nproc", "1", "--", "no-such-command"], "No such file or directory"),
    ],
)
def test_a_command_that_cannot_start_is_an_error_of_one_line(arguments, message):
    status, output, errors = _run(*arguments)
    assert status in (1, 2) and not output
    # A wrong flag has a second line, which says how to list all flags.
    assert message in errors[-2 if status == 2 else -1]


def test_a_rank_table_for_other_devices_is_refused(tmp_path):
    path = _table(tmp_path / "table.json", 0, 1, 2)
    command = ["--nproc", "2", "--rank-table", path, "--", "x", "--device", "npu"]
    assert "has ranks 0, 1, 2; 0 to 1 are needed" in _run(*command)[2][-1]
    (tmp_path / "table.json").write_text("[]")
    assert "is not a rank table" in _run(*command)[2][-1]
