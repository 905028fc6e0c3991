"""Files to checkpoints and back, bit for bit."""

import goldens
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mplug2_jax.checkpoint.load import load_checkpoint, read_metadata
from mplug2_jax.conversion import convert_state_dict, export_state_dict
from mplug2_jax.conversion.backward import plan_export
from mplug2_jax.conversion.convert import Options, convert_file, export_checkpoint
from mplug2_jax.models.mplug2 import HEADS, MODULES
from mplug2_jax.tasks.base import COMPOSITION

KINDS = [
    ("base", "qa"),
    ("proj", "pretrain"),
    ("stride", "qa"),
    ("tdown", "caption"),
]
OWNER = "text_decoder.bert.embeddings.word_embeddings.weight"
TIED = "text_decoder.cls.predictions.decoder.weight"


def bert(name):
    return goldens.read_json(name, "config.json")["bert"]


def arrays(path, container="model"):
    state = torch.load(path, weights_only=True)
    return {k: v.numpy() for k, v in (state[container] if container else state).items()}


@pytest.mark.parametrize("name, kind", KINDS)
def test_a_full_file_comes_back_with_all_keys(
    name, kind, save, torch_golden, tmp_path, same_bits
):
    folder, original = tmp_path / "model", goldens.state_dict(name, kind)
    path = save({"model": torch_golden(name, kind), "epoch": 9})
    report = convert_file(path, folder, Options(bert=bert(name), keep_dead=True))
    assert not report.initialised and report.notes == ["other entries, left out: epoch"]
    heads = HEADS if kind == "pretrain" else ()
    config = goldens.config(name)
    if heads:
        config = config.replace(contrastive={"width": 32})
    assert read_metadata(folder).config == config
    assert read_metadata(folder).modules == (*MODULES, *heads)
    assert export_checkpoint(folder, tmp_path / "back.pth") == len(original)
    same_bits(arrays(tmp_path / "back.pth"), original)
    export_checkpoint(folder, tmp_path / "back.safetensors")
    same_bits(load_file(tmp_path / "back.safetensors"), original)


def test_without_dead_weights_the_live_ones_come_back_tied(
    converted, tmp_path, same_bits
):
    folder, report = converted
    assert not (folder / "dead.safetensors").exists()
    export_checkpoint(folder, tmp_path / "back.pth")
    original = goldens.state_dict("base")
    live = {*report.matched, *report.tied}
    same_bits(arrays(tmp_path / "back.pth"), {k: original[k] for k in live})
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back[TIED].data_ptr() == back[OWNER].data_ptr()


@pytest.mark.parametrize("container", ["module", None])
def test_container_and_prefix_come_back(
    save, state, options, tmp_path, same_bits, container
):
    state = {f"module.{key}": value for key, value in state.items()}
    path = save({container: state} if container else state)
    convert_file(path, tmp_path / "model", options(keep_dead=True))
    export_checkpoint(tmp_path / "model", tmp_path / "back.pth")
    original = {f"module.{k}": v for k, v in goldens.state_dict("base").items()}
    same_bits(arrays(tmp_path / "back.pth", container), original)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_sixteen_bits_become_float32_and_come_back(
    save, state, options, tmp_path, kind
):
    key = "visual_encoder.visual.class_embedding"
    state[key] = state[key].to(kind)
    convert_file(save({"model": state}), tmp_path / "model", options())
    params, metadata = load_checkpoint(tmp_path / "model")
    assert params["vision"]["class_embedding"].dtype == np.float32
    assert np.array_equal(params["vision"]["class_embedding"], state[key].float())
    assert list(metadata.source["dtypes"]) == [key]
    export_checkpoint(tmp_path / "model", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back[key].dtype == kind and torch.equal(back[key], state[key])


def test_the_teacher_is_the_momentum_copy(save, torch_golden, tmp_path, same_bits):
    state = torch_golden("base", "qa_distill")
    convert_file(save({"model": state}), tmp_path / "model", Options(bert=bert("base")))
    teacher, _ = load_checkpoint(tmp_path / "model", tree="teacher")
    copies = {
        key.replace("_m.", ".", 1): value.numpy()
        for key, value in state.items()
        if key.split(".")[0].endswith("_m")
    }
    expected, _, _ = convert_state_dict(copies, goldens.config("base"), MODULES)
    same_bits(
        export_state_dict(teacher, goldens.config("base")),
        export_state_dict(expected, goldens.config("base")),
    )


def test_heads_of_pretraining_and_their_momentum_copies(same_bits):
    config = goldens.config("base").replace(contrastive={"width": 32})
    state = goldens.state_dict("base", "pretrain")
    params, teacher, report = convert_state_dict(state, config, (*MODULES, *HEADS))
    for tree, suffix in ((params, ""), (teacher, "_m")):
        heads = {
            "contrastive/vision": (
                f"vision_proj{suffix}",
                tree["contrastive"]["vision"],
            ),
            "contrastive/text": (f"text_proj{suffix}", tree["contrastive"]["text"]),
            "matching": (f"itm_head{suffix}", tree["matching"]),
        }
        for key, head in heads.values():
            np.testing.assert_array_equal(head["kernel"], state[f"{key}.weight"].T)
            np.testing.assert_array_equal(head["bias"], state[f"{key}.bias"])
        mlm = f"fusion_encoder{suffix}.cls.predictions"
        table = tree["mlm"]["embeddings"]["word"]["embedding"]
        np.testing.assert_array_equal(table[:120], state[f"{mlm}.decoder.weight"])
        np.testing.assert_array_equal(
            tree["mlm"]["head"]["dense"]["kernel"],
            state[f"{mlm}.transform.dense.weight"].T,
        )
        # There is one temperature: files have no copy of it.
        assert tree["contrastive"]["temperature"] == state["temp"] == np.float32(0.07)
    assert report.matched.count("temp") == 1
    back = export_state_dict(params, config)
    words = "fusion_encoder.embeddings.word_embeddings.weight"
    assert back["temp"].shape == ()
    assert np.array_equal(
        back[words], back["fusion_encoder.cls.predictions.decoder.weight"]
    )
    lent = plan_export(teacher, config, teacher=True)
    assert "vision_proj_m.weight" in lent and not {"temp", "temp_m"} & set(lent)


def test_fine_tuning_takes_a_pretrained_file_without_its_heads(
    save, torch_golden, tmp_path
):
    path = save({"model": torch_golden("proj", "pretrain")})
    how = Options(bert=bert("proj"), modules=COMPOSITION["captioning"].modules)
    report = convert_file(path, tmp_path / "model", how)
    assert report.problem() is None
    assert "belongs to contrastive, which was not asked for" in report.dead.values()
    params, _ = load_checkpoint(tmp_path / "model")
    assert not set(params) & set(HEADS)


def test_queues_are_named_and_kept_aside(save, torch_golden, tmp_path, same_bits):
    state = torch_golden("proj", "pretrain")
    queues = {
        "image_queue": torch.arange(6.0).reshape(2, 3),
        "text_queue": torch.ones(2, 3),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    path = save({"model": state | queues})
    how = Options(bert=bert("proj"), keep_dead=True)
    report = convert_file(path, tmp_path / "model", how)
    assert {report.dead[key] for key in queues} == {"a queue of pretraining features"}
    export_checkpoint(tmp_path / "model", tmp_path / "back.pth")
    back = arrays(tmp_path / "back.pth")
    same_bits(
        {key: back[key] for key in queues}, {k: v.numpy() for k, v in queues.items()}
    )


def test_padding_rows_are_zero_and_cut_off_again():
    params = goldens.params("base")
    table = params["decoder"]["embeddings"]["word"]["embedding"]
    assert table.shape[0] == 128 and not table[120:].any() and table[119].any()
    assert export_state_dict(params, goldens.config("base"))[OWNER].shape[0] == 120


def test_a_part_of_the_model_exports_its_part():
    config, modules = goldens.config("base"), COMPOSITION["captioning"].modules
    params, _, report = convert_state_dict(goldens.state_dict("base"), config, modules)
    back = export_state_dict(params, config)
    assert set(back) == {*report.matched, *report.tied}
    assert not any(key.startswith("fusion_encoder") for key in back)


def test_what_such_files_have_no_place_for_is_an_error():
    config = goldens.config("base")
    params, _, _ = convert_state_dict(goldens.state_dict("base"), config, MODULES)
    head = {"kernel": np.zeros((128, 2), np.float32), "bias": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"no place for classifier/bias, classifier/k"):
        export_state_dict({**params, "classifier": head}, config)


@pytest.mark.parametrize("suffix", ["", ".onnx"])
def test_only_known_suffixes_are_written(tmp_path, suffix):
    with pytest.raises(ValueError, match="must end in .pth or .safetensors"):
        export_checkpoint(tmp_path, tmp_path / f"x{suffix}")
