"""One task = the modules it uses + loss + prediction."""

from mplug2_jax.tasks.captioning import Captioning
from mplug2_jax.tasks.classification import (
    ActionClassification,
    ImageClassification,
    PairClassification,
    TextClassification,
)
from mplug2_jax.tasks.grounding import Grounding
from mplug2_jax.tasks.joint import CaptionAndAnswer
from mplug2_jax.tasks.pretraining import Pretraining
from mplug2_jax.tasks.question_answering import QuestionAnswering
from mplug2_jax.tasks.retrieval import Retrieval

# By the name a configuration file gives them. Captioning by instruction is question
# answering whose question is the instruction (`InputConfig.instruction`).
TASKS = {
    "captioning": Captioning,
    "captioning_by_instruction": QuestionAnswering,
    "question_answering": QuestionAnswering,
    "caption_and_answer": CaptionAndAnswer,
    "grounding": Grounding,
    "action_classification": ActionClassification,
    "image_classification": ImageClassification,
    "text_classification": TextClassification,
    "pair_classification": PairClassification,
    "pretraining": Pretraining,
    "retrieval": Retrieval,
}
CLASSIFICATION = tuple(name for name in TASKS if name.endswith("classification"))
