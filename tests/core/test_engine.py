"""Which device a process uses, and over how many processes work is spread."""

from __future__ import annotations

import os

import pytest

from m2raap.cli.options import open_engine, parse_devices
from m2raap.core import engine
from m2raap.core.engine import DEVICE, WORKER, LocalEngine, device, map_networks
from m2raap.core.errors import UsageError


@pytest.fixture(autouse=True)
def _nothing_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DEVICE, WORKER):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "machine_gpus", lambda: 4)


def place(_: int) -> tuple[str, str, int]:
    return os.environ[WORKER], os.environ.get(DEVICE, ""), os.getpid()


def test_without_a_gpu_it_is_the_cpu_and_a_stated_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "machine_gpus", lambda: 0)
    assert device() == "cpu"
    monkeypatch.setenv(DEVICE, "cuda:0")
    with pytest.raises(UsageError, match=r"M2RAAP_DEVICE=cuda:0: torch can use no GPU"):
        device()
    monkeypatch.setenv(DEVICE, "gpu")
    with pytest.raises(UsageError, match="expected cpu, cuda or cuda:N"):
        device()


def test_workers_take_the_gpus_of_the_machine_in_turn(four_gpus: None, monkeypatch: pytest.MonkeyPatch):
    assert device() == "cuda"
    for worker, expected in (("0/8", "cuda:0"), ("3/8", "cuda:3"), ("5/8", "cuda:1")):
        monkeypatch.setenv(WORKER, worker)
        assert device() == expected
    monkeypatch.setenv(DEVICE, "cuda:2")
    assert device() == "cuda:2"
    monkeypatch.setenv(DEVICE, "cpu")
    assert device() == "cpu"


def test_networks_get_two_processes_a_gpu_and_other_work_all_cores(four_gpus: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "available_cores", lambda: 64)
    for devices, stated, expected in (
        ((), None, (8, 64)),
        (("cuda:1", "cuda:3"), None, (4, 64)),
        (("cpu",), None, (64, 64)),
        (("cuda:0",), 5, (5, 5)),
    ):
        local = LocalEngine(stated, devices)
        assert (local.processes(True), local.processes(False)) == expected
        assert local.has_gpus() is (devices != ("cpu",))
        local.close()


def test_devices_are_dealt_to_the_workers_and_given_back(four_gpus: None):
    assert (parse_devices("0-2, 5"), parse_devices("cpu"), parse_devices(None)) == (
        ["cuda:0", "cuda:1", "cuda:2", "cuda:5"], ["cpu"], [],
    )  # fmt: skip
    with pytest.raises(UsageError, match="or cpu"):
        parse_devices("gpu0")
    with open_engine("local", 2, "1,3") as mapped:
        assert device() == "cuda:1"
        rows = {row for _, row in mapped.map(place, range(8))}
    assert DEVICE not in os.environ
    by_worker = {worker: stated for worker, stated, _ in rows}
    assert {("0/2", "cuda:1"), ("1/2", "cuda:3")} >= set(by_worker.items())


def test_workers_end_with_the_work_that_ran_networks_on_gpus(four_gpus: None):
    local = LocalEngine(2, ["cuda:0"])
    try:
        first = {pid for _, (*_, pid) in local.map(place, range(4))}
        same = {pid for _, (*_, pid) in local.map(place, range(4), True)}
        later = {pid for _, (*_, pid) in local.map(place, range(4))}
    finally:
        local.close()
    assert first | same and not later & (first | same)


def test_on_the_cpu_only_one_thread_is_spread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "machine_gpus", lambda: 0)
    local = LocalEngine(2)
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert {pid for _, pid in map_networks(local, pid_of, range(3))} == {os.getpid()}
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert os.getpid() not in {pid for _, pid in map_networks(local, pid_of, range(3))}
    finally:
        local.close()


def pid_of(_: int) -> int:
    return os.getpid()


def variables(_: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_every_process_starts_with_one_thread(monkeypatch: pytest.MonkeyPatch):
    """A process that the pool started later would have the variables of this one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    local = LocalEngine(5)
    try:
        answers = dict(local.map(variables, range(40)))
        assert len(getattr(local.pool(), "_processes")) == 5  # noqa: B009
        assert {threads for _, threads in answers.values()} == {"1"}
    finally:
        local.close()
