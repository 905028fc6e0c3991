"""What a run takes of its checkpoint's model, and which other models are refused."""

import pytest

from mplug2_jax.checkpoint.load import Metadata
from mplug2_jax.data.tokenizers import open_tokenizer
from mplug2_jax.models.config import MPlug2Config, tiny
from mplug2_jax.models.mplug2 import HEADS, MODULES
from mplug2_jax.sharding.mesh import make_mesh
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.start import make_task

WORDS = open_tokenizer("configs/shapes_words.txt")
STORED = tiny().replace(text={"vocab_size": WORDS.vocab_size})
WITHOUT = {
    "local_temporal": {"vision": {"local_temporal": "none"}},
    "universal_layers": {"universal": {"num_layers": 1}},
    "latents": {"universal": {"num_latents": 3}},
    "after": {"contrastive": {"after": "encoder"}},
}


@pytest.fixture
def model_of(tmp_path):
    """The model of a task that starts from a checkpoint, which needs no weights."""

    def model(task: str, stored: MPlug2Config, wanted: MPlug2Config, modules=MODULES):
        (tmp_path / "config.json").write_text(Metadata(stored, modules).to_json())
        config = RunConfig(task, wanted, init_from=str(tmp_path))
        return make_task(config, WORDS, make_mesh()).config

    return model


@pytest.mark.parametrize("task", ["pretraining", "retrieval", "captioning"])
@pytest.mark.parametrize("name", WITHOUT)
def test_another_model_than_the_checkpoint_s_is_refused(model_of, task, name):
    wanted, modules = STORED.replace(**WITHOUT[name]), (*MODULES, *HEADS)
    ((section, (key,)),) = WITHOUT[name].items()
    option = "`" if name == "after" else f" --{name.replace('_', '-')} "
    message = rf"{section}\.{key} is .*; set it so, or .* --bert \.\.\.{option}"
    with pytest.raises(ValueError, match=message):
        model_of(task, STORED, wanted, modules)
    assert model_of(task, wanted, wanted, modules) == wanted


@pytest.mark.parametrize("name", WITHOUT)
def test_a_preset_s_value_asks_for_nothing_but_in_pretraining(model_of, name):
    stored, modules = STORED.replace(**WITHOUT[name]), (*MODULES, *HEADS)
    assert model_of("retrieval", stored, STORED, modules) == stored
    with pytest.raises(ValueError, match="set it so"):
        model_of("pretraining", stored, STORED, modules)


def test_texts_fit_the_positions_of_the_checkpoint_s_model(model_of):
    """Those of this task alone: questions of up to 25 tokens do not matter here."""
    enough, short = (STORED.replace(text={"max_positions": n}) for n in (20, 19))
    assert model_of("captioning", enough, STORED) == enough
    with pytest.raises(ValueError, match="caption_length is 20; expected .* to 19, "):
        model_of("captioning", short, STORED)


@pytest.mark.parametrize("task", ["pretraining", "retrieval"])
def test_a_head_that_starts_here_is_as_configured(model_of, task):
    wanted = STORED.replace(contrastive={"after": "encoder", "width": 8})
    assert model_of(task, STORED, wanted) == wanted
