"""How many threads a Loader takes by default: in containers, what their control group grants."""

import os

import pytest
from pretexture.loader.console import processors


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """make(cgroup, files): a /proc and a /sys with these texts, on a machine of 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def make(cgroup, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return processors.available(str(tmp_path))

    return make


# Version 2, as docs.kernel.org/admin-guide/cgroup-v2.html describes cpu.max: "$MAX $PERIOD".
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 16),
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "max 100000"}, 3),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "nonsense"}, 16),
        ({"cpu.max": ""}, 16),
        ({"cpu.max": "100000 0"}, 16),
        ({}, 16),
    ],
)
def test_quotas_of_version_2(machine, files, expected):
    assert machine("0::/a/b\n", files) == expected


# Version 1: cpu.cfs_quota_us over cpu.cfs_period_us, -1 for none.
@pytest.mark.parametrize(
    ("group", "quota", "expected"),
    [("/", "-1", 16), ("/", "250000", 3), ("/docker/1234", "100000", 1)],
)
def test_quotas_of_version_1(machine, group, quota, expected):
    folder = "cpu,cpuacct" + group
    files = {folder + "/cpu.cfs_quota_us": quota, folder + "/cpu.cfs_period_us": "100000"}
    assert machine(f"12:memory:{group}\n4:cpu,cpuacct:{group}\n", files) == expected


def test_within_a_container_the_group_is_the_one_at_the_top(machine):
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
    assert machine("4:cpu,cpuacct:/docker/1234\n", files) == 2


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert processors.available(str(tmp_path)) == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.available(str(tmp_path)) == 1
