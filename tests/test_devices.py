"""A device is known or it is not; what is measured of it is used for it alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from torch_materialize.core.devices import CPU, DEVICES, Device, cpu_at_hand, identify
from torch_materialize.core.fits import FITS

GIB = 1 << 30


def driver(name, processors, gib, clock=None, bus=None, **more):
    """What ``torch.cuda.get_device_properties`` says; clock in kHz, bus in bits."""
    rates = {} if clock is None else {"memory_clock_rate": clock, "memory_bus_width": bus}
    memory = int(gib * GIB)
    return SimpleNamespace(
        name=name, multi_processor_count=processors, total_memory=memory, **rates, **more
    )


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("a100", driver("NVIDIA A100-SXM4-80GB", 108, 79.15, 1_593_000, 5120)),
        ("a100", driver("A100-SXM4-80GB", 108, 79.35)),
        ("rtx4090", driver("NVIDIA GeForce RTX 4090", 128, 23.6, 10_501_000, 384)),
        ("h100", driver("NVIDIA H100 80GB HBM3", 132, 79.1, 2_619_000, 5120)),
        ("h200", driver("NVIDIA H200", 132, 139.8, 3_201_000, 6144)),
        ("b200", driver("NVIDIA B200", 148, 178.4)),
        ("mi300x", driver("AMD Instinct MI300X", 304, 191.98, gcnArchName="gfx942:sramecc+")),
        ("mi300x", driver("AMD Instinct MI300X VF", 304, 191.98, gcnArchName="gfx942")),
    ],
)
def test_a_device_of_the_table_is_known(name, properties):
    assert identify(properties) is DEVICES[name]


@pytest.mark.parametrize(
    ("properties", "bandwidth"),
    [
        (driver("NVIDIA GH200 480GB", 132, 94.5, 2_619_000, 6144), 4.02e12),
        (driver("NVIDIA GB200", 152, 184.0, 3_996_000, 8192), 8.18e12),
        (driver("NVIDIA H100 PCIe", 114, 79.1, 1_593_000, 5120), 2.04e12),
        (driver("NVIDIA H100 NVL", 132, 93.1, 2_619_000, 6016), 3.94e12),
        (driver("NVIDIA H200 NVL", 132, 139.8, 3_201_000, 6144), 4.92e12),
        (driver("NVIDIA H200 MIG 1g.18gb", 16, 17.5, 3_201_000, 768), 6.1e11),
        (driver("NVIDIA GeForce RTX 4090 Laptop GPU", 76, 15.6, 9_001_000, 256), 5.76e11),
        (driver("NVIDIA GeForce RTX 4090 D", 114, 23.6, 10_501_000, 384), 1.008e12),
        (driver("NVIDIA A100-SXM4-40GB", 108, 39.4, 1_215_000, 5120), 1.56e12),
        (driver("NVIDIA A100 80GB PCIe", 108, 79.15, 1_512_000, 5120), 1.94e12),
        (driver("Tesla T4", 40, 14.6, 5_001_000, 256), 3.2e11),
        # The name alone is not enough: a part of the processors, other memory.
        (driver("NVIDIA H200", 66, 139.8, 3_201_000, 6144), 4.92e12),
        (driver("NVIDIA H200", 132, 70.0, 3_201_000, 6144), 4.92e12),
        (driver("NVIDIA L40S", 142, 44.4), 0),  # a driver that does not say
        (driver("AMD Instinct MI325X", 304, 255.98, 1_500_000, 8192, gcnArchName="gfx942"), 0),
    ],
)
def test_any_other_is_known_by_its_own_properties(properties, bandwidth):
    device = identify(properties)
    assert device.name == device.title == properties.name
    assert device.name not in DEVICES
    assert device.bandwidth == pytest.approx(bandwidth, rel=0.01)
    assert device.is_gpu and (device.runtime == "hip") == ("AMD" in properties.name)
    assert device.fitted == "" and device.processors == properties.multi_processor_count


def test_a_stated_bandwidth_is_what_the_driver_s_numbers_make():
    """The formula, where the vendor's figure is known."""
    for name, clock, bus in (
        ("a100", 1_593_000, 5120),
        ("rtx4090", 10_501_000, 384),
        ("h100", 2_619_000, 5120),
        ("h200", 3_201_000, 6144),
    ):
        computed = identify(driver("of another name", 1, 1, clock, bus)).bandwidth
        assert computed == pytest.approx(DEVICES[name].bandwidth, rel=0.03)


def test_rates_belong_to_devices_of_the_table():
    assert {one.fitted for one in DEVICES.values() if one.fitted} == set(FITS)
    assert all(one.fitted in ("", name) for name, one in DEVICES.items())


@pytest.mark.parametrize(
    ("title", "threads", "measured"),
    [
        ("Intel(R) Xeon(R) Processor", 2, True),
        ("Intel(R) Xeon(R) Platinum 8488C", 2, True),
        ("AMD EPYC", 2, True),
        ("AMD EPYC 9654 96-Core Processor", 96, False),
        ("Intel(R) Xeon(R) Processor", 1, False),
        ("Intel(R) Xeon(R) Processor", 32, False),
        ("Intel(R) Core(TM) i9-14900K", 2, False),
        ("AMD Ryzen 9 7950X 16-Core Processor", 2, False),
        ("", 2, False),  # Arm names no model
    ],
)
def test_a_cpu_has_the_rates_that_were_measured_on_its_like(title, threads, measured):
    device = cpu_at_hand(title, threads)
    assert (device is CPU) == measured
    assert device.name == "cpu" and not device.is_gpu
    assert bool(device.fitted) == measured


@pytest.mark.e2e
def test_limits_without_measured_rates_go_by_bytes():
    from torch_materialize.core.limits import limits_for

    other = limits_for(cpu_at_hand("Neoverse-V2", 64))
    assert other.rates is None and other.refusing_rates is None
    # A plan recomputes no more there than where it was measured what that takes.
    assert other.balance == pytest.approx(FITS["cpu"].balance, rel=0.1)
    assert limits_for(CPU).rates is FITS["cpu"]
    relative = limits_for(identify(driver("NVIDIA GH200 480GB", 132, 94.5, 2_619_000, 6144)))
    assert relative.refusing_rates is None
    assert relative.launch_bytes == pytest.approx(1.7e-6 * 4.02e12, rel=0.01)
    silent = limits_for(identify(driver("NVIDIA L40S", 142, 44.4)))
    assert silent == limits_for(None)


@pytest.mark.e2e
def test_one_compile_has_one_answer(monkeypatch):
    """Planning, the record and what `tune` remembers ask one function."""
    import torch

    from torch_materialize.inductor.explain import announce
    from torch_materialize.inductor.hooks import graph_lowering
    from torch_materialize.inductor.plan import tune
    from torch_materialize.inductor.read import at_hand

    assert graph_lowering.device_of is announce.device_of is at_hand.device_of
    gpu = torch.empty(0, device="meta")
    monkeypatch.setattr(at_hand, "_placed", lambda inputs: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for properties in (
        driver("NVIDIA GH200 480GB", 132, 94.5),
        driver("NVIDIA H100 80GB HBM3", 132, 79.1),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _=None, p=properties: p)
        graph = SimpleNamespace(inputs=[gpu])
        device = at_hand.device_of(graph.inputs)
        assert isinstance(device, Device)
        assert announce._device(graph) == device.name
        assert properties.name in tune._machine(graph)["device"]


@pytest.mark.e2e
def test_a_planned_gpu_is_the_one_that_its_properties_tell_of():
    from torch_materialize.inductor.lower.virtual_gpu import _driver_properties

    for device in DEVICES.values():
        if device.is_gpu:
            assert identify(_driver_properties(device)) is device


@pytest.mark.e2e
def test_whether_the_cpu_was_measured_is_in_the_key(monkeypatch):
    """A cache may travel from one machine to another, and keys of Inductor do not name the CPU."""
    from torch_materialize.core.policy import parse
    from torch_materialize.inductor.hooks.policy_pass import PolicyPass
    from torch_materialize.inductor.read import at_hand

    keys = set()
    for title in ("Intel(R) Xeon(R) Processor", "Intel(R) Core(TM) i9-14900K"):
        monkeypatch.setattr(at_hand, "_processor", lambda title=title: title)
        monkeypatch.setattr(at_hand.torch, "get_num_threads", lambda: 2)
        keys.add(PolicyPass(parse("plan")).uuid())
    assert len(keys) == 2
