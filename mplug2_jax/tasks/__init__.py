"""One task = the modules it uses + loss + prediction."""

from mplug2_jax.tasks.captioning import Captioning
from mplug2_jax.tasks.joint import CaptionAndAnswer
from mplug2_jax.tasks.pretraining import Pretraining
from mplug2_jax.tasks.question_answering import QuestionAnswering

# By the name a configuration file gives them.
TASKS = {
    "captioning": Captioning,
    "question_answering": QuestionAnswering,
    "caption_and_answer": CaptionAndAnswer,
    "pretraining": Pretraining,
}
