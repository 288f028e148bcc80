"""The checkpointer on a toy model: formats, refusals, atomic files, portable weights."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segcore.checkpoint import (
    Checkpointer,
    converters,
    load_portable,
    read_checkpoint,
    register_converter,
    register_model_rules,
    save_portable,
)


@pytest.fixture(autouse=True)
def logging_is_not_set_up():
    """As in a program of a few lines: a report is printed. Other tests of this process may have set it up."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


class Toy(nn.Module):
    def __init__(self, width: int = 4, classes: int = 3, with_text: bool = False, depth: int = 1):
        super().__init__()
        self.backbone = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)) for _ in range(depth)]
        )
        self.head = nn.Linear(width, width)
        self.classify = nn.Linear(width, classes)
        if with_text:
            self.text = nn.Linear(2, 2)


@pytest.fixture(autouse=True)
def toy_rules(monkeypatch):
    """Rules for the toy, in registries of this test's own."""
    monkeypatch.setattr(converters, "_CONVERTERS", {})
    monkeypatch.setattr(converters, "_MODEL_RULES", {})
    register_model_rules(
        "toy",
        lambda keys: "classify.weight" in keys,
        class_head=[r"classify\.(weight|bias)"],
        training_only=["text."],
    )


def toy(seed: int = 0, **options) -> Toy:
    torch.manual_seed(seed)
    return Toy(**options)


def assert_equal_state(model: nn.Module, expected) -> None:
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def frozen(model: nn.Module) -> dict:
    return {key: value.clone() for key, value in model.state_dict().items()}


def write(path, model: nn.Module, kind: str) -> str:
    """The model's weights in one of the spellings that are met in the wild."""
    state = dict(model.state_dict())
    path = os.fspath(path)
    if kind == "safetensors":
        path += ".safetensors"
        save_file(state, path)
    elif kind in ("numpy.pkl", "torch.pkl"):
        path += ".pkl"
        values = {key: value.numpy() if kind == "numpy.pkl" else value for key, value in state.items()}
        with open(path, "wb") as stream:
            pickle.dump({"model": values, "__author__": "someone", "matching_heuristics": True}, stream)
    else:
        path += ".pth"
        data = {
            "plain": state,
            "model": {"model": state},
            "state_dict": {"state_dict": state, "epoch": 3},
            "metadata": {"model": model.state_dict()},
            "legacy": {"model": state},
            "data_parallel": {f"module.{key}": value for key, value in state.items()},
            "namespace": {"model": state, "args": argparse.Namespace(lr=1), "best": np.float64(3.5)},
        }[kind]
        torch.save(data, path, _use_new_zipfile_serialization=kind != "legacy")
    return path


KINDS = [
    "plain",
    "model",
    "state_dict",
    "metadata",
    "legacy",
    "data_parallel",
    "namespace",
    "safetensors",
    "numpy.pkl",
    "torch.pkl",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_loads(tmp_path, kind):
    source, model = toy(0), toy(1)
    checkpointer = Checkpointer(model)
    checkpointer.load(write(tmp_path / "weights", source, kind))
    assert_equal_state(model, source.state_dict())
    assert checkpointer.last_report.is_complete


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.97])
def test_truncated_file_is_one_error_and_changes_nothing(tmp_path, kind, keep):
    path = write(tmp_path / "weights", toy(0), kind)
    size = os.path.getsize(path)
    os.truncate(path, int(size * keep))
    model = toy(1)
    before = frozen(model)
    with pytest.raises(ValueError, match=r"cannot read the weights .*truncated or not a weight file"):
        Checkpointer(model).load(path)
    assert_equal_state(model, before)


@pytest.mark.parametrize(
    "text, why",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"\x00" * 4096, "not a weight file"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors"])
def test_files_that_are_something_else(tmp_path, text, why, name):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=why):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("data", [[1, 2], {"a": 1}, {}, {"model": {}}, {"model": {"a": "text"}}])
def test_files_without_tensors(tmp_path, data):
    torch.save(data, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth"):
        read_checkpoint(tmp_path / "odd.pth")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["bomb.pkl", "bomb.pth", "legacy.pth"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, name):
    data = {"model": dict(toy().state_dict()), "extra": Bomb(tmp_path / "ran")}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(data))
    else:
        torch.save(data, tmp_path / name, _use_new_zipfile_serialization=name == "bomb.pth")
    with pytest.raises(ValueError, match=r"Python objects other than tensors.*mkdir"):
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_missing_file_is_one_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nothing\.pth"):
        Checkpointer(toy()).load(str(tmp_path / "nothing.pth"))
    assert Checkpointer(toy()).load("") == {}


# ---- what fits and what does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 6}, r"backbone\.0\.0\.weight: got \(6, 3, 1, 1\), expected \(4, 3, 1, 1\)"),
        ({"depth": 2}, r"backbone\.1\.0\.weight: got \(4, 3, 1, 1\), the model has no such tensor"),
    ],
)
def test_another_architecture_is_refused_whole(tmp_path, options, message):
    path = write(tmp_path / "other", toy(0, **options), "model")
    model = toy(1)
    before = frozen(model)
    with pytest.raises(ValueError, match=message) as error:
        Checkpointer(model).load(path)
    assert "nothing was loaded" in str(error.value) and path in str(error.value)
    assert_equal_state(model, before)


def test_a_deeper_model_refuses_a_shallow_checkpoint(tmp_path):
    path = write(tmp_path / "shallow", toy(0), "model")
    with pytest.raises(
        ValueError, match=r"backbone\.1\.0\.weight: not in the checkpoint, expected \(4, 3, 1, 1\)"
    ):
        Checkpointer(toy(1, depth=2)).load(path)


def test_a_stranger_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "stranger.pth")
    register_converter("toy's other format", lambda state: False, lambda state, model: dict(state))
    with pytest.raises(
        ValueError, match=r"known formats \(toy's other format\); its first keys are conv\.weight"
    ):
        Checkpointer(toy()).load(str(tmp_path / "stranger.pth"))


def test_an_absent_module_is_reported_and_keeps_its_values(tmp_path, capsys):
    state = {key: value for key, value in toy(0).state_dict().items() if not key.startswith("head.")}
    torch.save(dict(state, **{"other.weight": torch.zeros(2)}), tmp_path / "part.pth")
    model = toy(1)
    before = frozen(model)
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "part.pth"))
    report = checkpointer.last_report
    assert report.missing == ["head.weight", "head.bias"] and report.unexpected == ["other.weight"]
    assert not report.is_complete
    assert_equal_state(model, {**state, **{key: before[key] for key in report.missing}})
    said = capsys.readouterr().out
    assert "missing in the checkpoint" in said and "head.weight" in said and "other.weight" in said


def test_counters_of_batch_norm_may_be_absent(tmp_path):
    state = {key: value for key, value in toy(0).state_dict().items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "w.pth")
    checkpointer = Checkpointer(toy(1))
    checkpointer.load(str(tmp_path / "w.pth"))
    assert checkpointer.last_report.is_complete


def test_only_the_class_head_is_reset(tmp_path, capsys):
    source, model = toy(0, classes=5), toy(1)
    before = frozen(model)
    Checkpointer(model).load(write(tmp_path / "five", source, "model"))
    expected = frozen(source)
    expected.update({key: before[key] for key in ("classify.weight", "classify.bias")})
    assert_equal_state(model, expected)
    assert "class head re-initialised: the checkpoint has 5 outputs, the model 3" in capsys.readouterr().out


def test_class_head_of_another_width_is_refused(tmp_path):
    state = dict(toy(0).state_dict(), **{"classify.weight": torch.zeros(3, 9)})
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"classify\.weight: got \(3, 9\), expected \(3, 4\)"):
        Checkpointer(toy(1)).load(str(tmp_path / "w.pth"))


def test_training_only_modules(tmp_path, capsys):
    with_text, without = toy(0, with_text=True), toy(1)
    checkpointer = Checkpointer(without)
    checkpointer.load(write(tmp_path / "training", with_text, "model"))
    assert checkpointer.last_report.is_complete
    assert capsys.readouterr().out.count("ignored 2 training-only tensors (text)") == 1
    checkpointer = Checkpointer(toy(2, with_text=True))
    checkpointer.load(write(tmp_path / "inference", without, "model"))
    assert checkpointer.last_report.training_only_missing == ["text.weight", "text.bias"]
    assert "has none of the 2 training-only tensors (text)" in capsys.readouterr().out


# ---- converters --------------------------------------------------------------------------------------------


def _renamed(state, model):
    return {key.replace("feet", "backbone"): value for key, value in state.items()}


def test_a_registered_format_is_found_by_its_keys(tmp_path):
    register_converter("feet", lambda state: any(key.startswith("feet.") for key in state), _renamed)
    source, model = toy(0), toy(1)
    # One key is spelled the same in both, as real formats have it.
    foreign = {
        key.replace("backbone", "feet"): value
        for key, value in source.state_dict().items()
        if key.startswith("backbone") or key == "head.bias"
    }
    foreign["head.weight"] = source.head.weight.detach()
    torch.save(foreign, tmp_path / "feet.pth")
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "feet.pth"))
    assert checkpointer.last_report.format == "feet"
    assert torch.equal(model.backbone[0][0].weight, source.backbone[0][0].weight)
    assert torch.equal(model.head.weight, source.head.weight)


def test_optional_keys_may_lack_in_a_module_that_is_there(tmp_path):
    torch.save(
        {f"feet.0.0.{name}": value for name, value in toy(0).backbone[0][0].state_dict().items()},
        tmp_path / "feet.pth",
    )
    register_converter("feet", lambda state: True, _renamed)
    with pytest.raises(ValueError, match=r"backbone\.0\.1\.weight: not in the checkpoint"):
        Checkpointer(toy(1)).load(str(tmp_path / "feet.pth"))
    register_converter("feet", lambda state: True, _renamed, optional=[r"backbone\.\d\.1\..*"])
    checkpointer = Checkpointer(toy(1))
    checkpointer.load(str(tmp_path / "feet.pth"))
    assert "backbone.0.1.weight" in checkpointer.last_report.missing


def test_two_formats_may_not_claim_one_file(tmp_path):
    for name in ("one", "two"):
        register_converter(name, lambda state: True, _renamed)
    torch.save({"feet.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="several registered formats: one, two"):
        Checkpointer(toy()).load(str(tmp_path / "w.pth"))
    register_converter("two", lambda state: True, _renamed, for_model=lambda keys: "another" in keys)
    with pytest.raises(ValueError, match="another architecture"):
        Checkpointer(toy()).load(str(tmp_path / "w.pth"))


# ---- saving and resuming -----------------------------------------------------------------------------------


def _trained(seed: int, classes: int = 3):
    model = toy(seed, classes=classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 + seed)
    model.head(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_save_and_resume(tmp_path):
    model, optimizer = _trained(0)
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000009", iteration=9)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000009.pth"]

    again, other_optimizer = _trained(1)
    checkpointer = Checkpointer(again, str(tmp_path), optimizer=other_optimizer)
    assert checkpointer.resume_or_load("unused", resume=True) == {"iteration": 9}
    assert_equal_state(again, model.state_dict())
    assert other_optimizer.param_groups[0]["lr"] == 0.1

    fresh, fresh_optimizer = _trained(2)
    checkpointer = Checkpointer(fresh, str(tmp_path), optimizer=fresh_optimizer)
    checkpointer.resume_or_load(str(tmp_path / "model_0000009.pth"), resume=False)
    assert_equal_state(fresh, model.state_dict())
    assert fresh_optimizer.param_groups[0]["lr"] == 2.1


def test_resume_with_other_classes_is_refused(tmp_path):
    model, optimizer = _trained(0, classes=5)
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("m")
    other, other_optimizer = _trained(1)
    before = frozen(other)
    with pytest.raises(ValueError, match=r"cannot resume .* has 5 outputs, the model's 3"):
        Checkpointer(other, str(tmp_path), optimizer=other_optimizer).load(str(tmp_path / "m.pth"))
    assert_equal_state(other, before)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = toy(0)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    whole = (tmp_path / "model_final.pth").read_bytes()

    def half(data, path):
        with open(path, "wb") as stream:
            stream.write(whole[: len(whole) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_final.pth"]


def test_only_a_writer_saves(tmp_path):
    Checkpointer(toy(), str(tmp_path), save_to_disk=False).save("model")
    Checkpointer(toy()).save("model")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="must not contain a folder"):
        Checkpointer(toy(), str(tmp_path)).save("a/b")


# ---- folders and the hub -----------------------------------------------------------------------------------


def _shards(folder, state, index=None):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "toy"}')
    keys = sorted(state)
    files = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in files.items():
        save_file({key: state[key] for key in part}, folder / name)
    weight_map = {key: name for name, part in files.items() for key in part}
    weight_map.update(index or {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_sharded_folder(tmp_path):
    source, model = toy(0), toy(1)
    folder = _shards(tmp_path / "hf", source.state_dict())
    assert read_checkpoint(folder).config == {"model_type": "toy"}
    Checkpointer(model).load(str(folder))
    assert_equal_state(model, source.state_dict())


def test_broken_folders(tmp_path):
    state = toy().state_dict()
    folder = _shards(tmp_path / "lost_shard", state)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        read_checkpoint(folder)
    with pytest.raises(ValueError, match=r"1 tensors that its shards do not hold, first 'ghost'"):
        read_checkpoint(_shards(tmp_path / "ghost", state, {"ghost": "model-00001-of-00002.safetensors"}))
    with pytest.raises(FileNotFoundError, match="outside"):
        read_checkpoint(_shards(tmp_path / "escape", state, {"outside": "../outside.safetensors"}))
    folder = _shards(tmp_path / "json", state)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        read_checkpoint(folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(FileNotFoundError, match="output folder of a training run"):
        read_checkpoint(tmp_path / "run")


def test_hub_names(tmp_path, monkeypatch):
    import huggingface_hub

    for name in ("hf:name", "hf:a/b/c", "hf:/b", "hf:"):
        with pytest.raises(ValueError, match="not of the form hf:ORG/NAME"):
            read_checkpoint(name)

    folder = _shards(tmp_path / "hub", toy(0).state_dict())
    asked = []

    def snapshot(repo, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    raw = read_checkpoint("hf:org/name@v1")
    assert set(raw.state) == set(toy().state_dict()) and raw.source == "hf:org/name@v1"
    # Safetensors suffices, so that the .bin duplicate is not fetched.
    assert len(asked) == 1 and asked[0][:2] == ("org/name", "v1")
    assert not any("bin" in pattern for pattern in asked[0][2])


def test_the_hub_offline_is_one_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="cannot fetch org/never-downloaded from the Hugging Face hub"):
        Checkpointer(toy()).load("hf:org/never-downloaded")


# ---- portable weights --------------------------------------------------------------------------------------


METADATA = {
    "name": "toys",
    "stuff_classes": ["wall", "car", "Straße"],
    "stuff_colors": [[1, 2, 3]] * 3,
    "thing_dataset_id_to_contiguous_id": {7: 1},
    "stuff_dataset_id_to_contiguous_id": {3: 0, 9: 2},
    "ignore_label": 255,
    "panoptic_root": "/home/someone",
}


def test_portable_round_trip(tmp_path):
    model = toy(0, with_text=True)
    path = tmp_path / "weights" / "toy.safetensors"
    save_portable(model, "MODEL: {}\n", path, metadata=METADATA, terms="CC BY 4.0", keep_float32=["head."])
    config, metadata, state = load_portable(path)
    assert config == "MODEL: {}\n"
    expected = {key: value for key, value in METADATA.items() if key != "panoptic_root"}
    assert metadata == {**expected, "terms": "CC BY 4.0"}
    assert set(state) == set(toy().state_dict())
    for key, value in state.items():
        original = model.state_dict()[key]
        narrow = value.dim() > 1 and not key.startswith("head.")
        assert torch.equal(value, original.half().float() if narrow else original), key
    again = toy(1)
    Checkpointer(again).load(str(path))
    assert_equal_state(again, state)
    assert os.listdir(tmp_path / "weights") == ["toy.safetensors"]


def test_portable_config_names_no_path_of_the_machine(tmp_path):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "/home/someone/model.pth", "/home/someone/run"
    cfg.freeze()
    save_portable(toy(), cfg, tmp_path / "w.safetensors", metadata=METADATA, terms="ours")
    config, _, _ = load_portable(tmp_path / "w.safetensors")
    assert "someone" not in config
    assert type(cfg).load_cfg(config).MODEL.DEVICE == cfg.MODEL.DEVICE
    assert cfg.MODEL.WEIGHTS == "/home/someone/model.pth"


def test_portable_errors(tmp_path):
    path = tmp_path / "w.safetensors"
    good = {"metadata": METADATA, "terms": "ours"}
    model = toy()
    with pytest.raises(ValueError, match=r"\.safetensors file, got"):
        save_portable(model, "", tmp_path / "w.pth", **good)
    with pytest.raises(ValueError, match="licence or terms"):
        save_portable(model, "", path, metadata=METADATA, terms=" ")
    with pytest.raises(ValueError, match="no stuff_classes"):
        save_portable(model, "", path, metadata={"name": "x"}, terms="ours")
    with pytest.raises(ValueError, match=r"cannot store weights as torch\.int8"):
        save_portable(model, "", path, dtype=torch.int8, **good)
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"head\.weight has values that torch\.float16 cannot hold"):
        save_portable(model, "", path, **good)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        load_portable(path)
    save_file(dict(model.state_dict()), path)
    with pytest.raises(ValueError, match="no config inside"):
        load_portable(path)
    os.truncate(path, 100)
    with pytest.raises(ValueError, match=r"is truncated or not safetensors"):
        load_portable(path)
