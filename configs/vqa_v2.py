"""VQA v2, large model.

Splits: 443757/214354/447793 questions about 82783/40504/81434 images; ten people's
answers to each, of test none: it is scored by the server of visualqa.org.
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare vqa_v2 --manual-dir downloads/vqa --data-dir data
    mplug2 train --config configs/vqa_v2.py --workdir runs/vqa_v2 \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/vqa_v2 --split validation \\
        --annotations data/mplug2_data/vqa_v2/1.0.0
    mplug2 evaluate --checkpoint runs/vqa_v2 --split test --task qa \\
        --annotations data/mplug2_data/vqa_v2/1.0.0 --predictions answers.json

`--candidates answer_list.json` chooses among given answers instead of writing one: of
the 128 whose first token is likeliest, the likeliest (ALBEF and BLIP, with 3128
answers). The same evaluation of the pretraining checkpoint is zero-shot.

Source: mPLUG-2's recipe was never released; this is its family's. mPLUG (AliceMind,
mPLUG/configs/vqa_mplug_large.yaml): 8 epochs, 3e-5 and for vision 5e-6 to 1e-6, weight
decay 0.02, batch 256, soft targets 0.4 after the first epoch, and each distinct answer
weighted by the share of people who gave it (dataset/vqa_dataset.py); 336 pixels. It
trains on most of the validation split, Visual Genome's questions, and words and objects
found in the images as well; this config on train alone, and on the four commonest
answers to a question.
Hardware: not measured; meant for 8 GPUs of 80 GB.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("question_answering", "large")
    config.train.path = "data/mplug2_data/vqa_v2/1.0.0"
    config.validation.path = config.train.path
    config.validation.split = "validation"
    config.inputs.num_frames = 1
    config.batch.batch_size = 256
    config.accumulation = 1
    config.batch.questions_per_video = 1
    config.batch.answers_per_question = 4
    config.batch.flip = False  # left and right are asked for
    config.optimizer.learning_rate = 3e-5
    config.optimizer.vision_learning_rate = 5e-6
    config.distillation.weight = 0.4
    config.distillation.ramp_steps = 1700
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.epochs = 8.0
    config.eval_every = 1700
    config.eval_examples = 2000
    config.best_by = "vqa/accuracy"
    return config
