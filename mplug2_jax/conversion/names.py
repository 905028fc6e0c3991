"""How files spell the same key: prefixes, wrappers and momentum copies.

Canonical spelling is that of the fine-tuned files. Pretraining wraps the text and
fusion encoders (`fusion_encoder.bert.encoder...`), data-parallel training prefixes
everything with `module.`, and a momentum copy of `x.y` is called `x_m.y`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

PREFIX = "module."
# Only around the parts of an encoder: `text_decoder.bert.` is canonical and stays.
_WRAPPED = re.compile(
    r"((?:text|fusion)_encoder(?:_m)?)\.((?:(?:bert|fusion)\.)+)"
    r"((?:embeddings|encoder|pooler)\..+)"
)
_WRAPPABLE = re.compile(
    r"((?:text|fusion)_encoder(?:_m)?)\.((?:embeddings|encoder|pooler)\..+)"
)
_MOMENTUM = re.compile(r"(\w+)_m(\..+)?")


@dataclasses.dataclass(frozen=True)
class Spelling:
    """What one file puts around canonical keys.

    Attributes:
      prefix: in front of every key.
      wrappers: component ("fusion_encoder") -> what follows its name ("bert.").
    """

    prefix: str = ""
    wrappers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def spell(self, key: str, teacher: bool = False) -> str:
        """The file's name of a canonical key."""
        if teacher:
            component, dot, rest = key.partition(".")
            key = f"{component}_m{dot}{rest}"
        if found := _WRAPPABLE.fullmatch(key):
            component, rest = found.groups()
            key = f"{component}.{self.wrappers.get(component, '')}{rest}"
        return self.prefix + key


@dataclasses.dataclass(frozen=True)
class Names:
    """Canonical key -> the file's key, for the model and for its momentum copy."""

    student: dict[str, str]
    teacher: dict[str, str]
    spelling: Spelling


def read_names(keys: Iterable[str]) -> Names:
    """Finds the canonical name of every key.

    Raises:
      ValueError: two keys have the same canonical name.
    """
    keys = list(keys)
    prefix = PREFIX if keys and all(k.startswith(PREFIX) for k in keys) else ""
    student, teacher, wrappers = {}, {}, {}
    for key in keys:
        name = key[len(prefix) :]
        if found := _WRAPPED.fullmatch(name):
            component, wrapper, rest = found.groups()
            name = f"{component}.{rest}"
            wrappers[component] = wrapper
        momentum = _MOMENTUM.fullmatch(name)
        group = teacher if momentum else student
        if momentum:
            name = momentum[1] + (momentum[2] or "")
        if name in group:
            raise ValueError(
                f"{group[name]} and {key} are two spellings of one weight; remove one "
                "of them from the file."
            )
        group[name] = key
    return Names(student, teacher, Spelling(prefix, wrappers))
