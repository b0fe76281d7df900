"""Devices and precisions."""

from __future__ import annotations

import pytest
import torch

from corrlib.device import autocast, choose_device, choose_precision
from corrlib.errors import InputError

CPU = torch.device("cpu")


def test_auto_prefers_cuda_then_mps_then_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda:1")


def test_each_process_of_a_machine_has_a_cuda_device_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert choose_device("auto") == torch.device("cuda") and not taken  # alone: the current one
    for name, value in {"WORLD_SIZE": "3", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    assert taken == [1, 1]
    assert choose_device("cpu").type == "cpu" and choose_device("cuda:0") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="for each process .*there are 2"):
        choose_device("auto")


def test_an_absent_or_unknown_device_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="not available here; there is: .*cpu"):
        choose_device("cuda")
    with pytest.raises(InputError, match="expected a device"):
        choose_device("tpu")


def test_older_cuda_cards_get_fp16_and_newer_ones_bf16(monkeypatch):
    cuda = torch.device("cuda")
    for capability, dtype in (((7, 5), torch.float16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, capability=capability: capability
        )
        assert choose_precision("auto", cuda) == dtype


def test_precision_by_name():
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("auto", torch.device("mps")) == torch.float32
    with pytest.raises(InputError, match="expected a precision"):
        choose_precision("int8", CPU)


def test_autocast_changes_products_only_where_asked():
    matrix = torch.rand(4, 4)
    with autocast(CPU, torch.float32):
        assert (matrix @ matrix).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16
