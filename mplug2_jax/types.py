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

from typing import Any

import flax.struct
from jaxtyping import Float, Int, UInt8


@flax.struct.dataclass
class Tokens:
    """Right-padded token ids and their mask (1 = token, 0 = padding).

    Like batches, of numpy arrays on the host and JAX arrays on the device.
    """

    values: Int[Any, "B L"]
    mask: Int[Any, "B L"]


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
      text: rows of plain text, of a batch without frames; in classification of pairs,
        consecutive rows about each medium.
      label: class of each text, or of each medium where there are no texts; a negative
        one does not count. Numbers in regression.
      box: of each question's phrase: x0, y0, x1, y1 as shares of width and height.
      media_id: a number >= 0 for each medium, its own in all batches of a run.
      is_video: False for images, which skip the local temporal modules; T > 1 are then
        several images of one row. Part of the batch's structure: the two kinds compile
        apart.
    """

    frames: UInt8[Any, "B T H W 3"] | Float[Any, "B T H W 3"] | None = None
    question: Tokens | None = None
    answer: Tokens | None = None
    answer_weight: Float[Any, "B*Q*A"] | None = None
    caption: Tokens | None = None
    text: Tokens | None = None
    label: Int[Any, "R"] | Float[Any, "R"] | None = None
    box: Float[Any, "R 4"] | None = None
    media_id: Int[Any, "B"] | None = None
    is_video: bool = flax.struct.field(pytree_node=False, default=True)

    def require(self, name: str) -> Any:
        """The field `name`.

        Raises:
          ValueError: the batch has none.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"The batch has no {name}, which this task reads; let the data "
                "pipeline give it (config.batch)."
            )
        return value
