"""Arrays' legend and the few structures that travel between the packages.

Letters in shapes, everywhere:

    B  videos or images in a batch     L  text length
    T  frames per video                D  model width
    P  patches per frame               H  attention heads
    N  visual tokens, 1 + T * P        K  width of one head
    V  vocabulary                      S  keys of an attention

Texts about one video are stored in consecutive rows: a batch of B videos with Q
questions each holds B * Q question rows, and the group size Q is read off the
shapes. There are no index arrays.
"""

import flax.struct
from jaxtyping import Array, Float, Int, UInt8


@flax.struct.dataclass
class Tokens:
    """Right-padded token ids and their mask (1 = token, 0 = padding)."""

    values: Int[Array, "B L"]
    mask: Int[Array, "B L"]


@flax.struct.dataclass
class MultimodalBatch:
    """What a task reads; absent modalities are None.

    Attributes:
      frames: RGB, uint8 in [0, 255], normalised on the device; float arrays are taken
        as already normalised.
      question: Q consecutive rows per video.
      answer: A consecutive rows per question.
      answer_weight: weight of each answer's loss; 0 marks a row of padding.
      caption: C consecutive rows per video; a row whose mask is all zero is padding.
    """

    frames: UInt8[Array, "B T H W 3"] | Float[Array, "B T H W 3"] | None = None
    question: Tokens | None = None
    answer: Tokens | None = None
    answer_weight: Float[Array, "B*Q*A"] | None = None
    caption: Tokens | None = None
