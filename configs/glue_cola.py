"""GLUE's CoLA (is a sentence grammatical), large model, text alone.

Splits: 8551/1043/1063 sentences (train/validation/test).
Published: no citable figure of mPLUG-2. Reproduced: no.

    mplug2 prepare tfds:glue/cola --data-dir data
    mplug2 train --config configs/glue_cola.py --workdir runs/glue_cola \\
        --config.init_from=checkpoints/pretrained
    mplug2 evaluate --checkpoint runs/glue_cola \\
        --annotations data/glue/cola/2.0.0 --split validation

The best checkpoint is chosen by Matthews' correlation,
on the split that is reported, as papers on GLUE do: the labels of the test splits are
secret, and gluebenchmark.com scores them.

Source: mPLUG-2's recipe was never released; these are values of BERT, which its text
encoder starts from (arXiv 1810.04805, appendix A.3: batch 32, 2e-5 to 5e-5, 2 to 4
epochs), with more epochs where the data are few.
Hardware: not measured; meant for one GPU of 16 GB. `mplug2 plan` says what fits.
"""

from mplug2_jax.training.config import default_config


def get_config():
    config = default_config("text_classification", "large")
    config.train.path = "tfds:glue/cola"
    config.train.data_dir = "data"
    config.validation.path = config.train.path
    config.validation.data_dir = "data"
    config.validation.split = "validation"
    config.inputs.text_length = 128
    config.batch.batch_size = 32
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup_steps = 100
    config.optimizer.end_learning_rate = 0.0
    config.model.numerics.dtype = "bfloat16"
    config.epochs = 5.0
    config.eval_every = 100
    return config
