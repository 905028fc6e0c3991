"""Pretraining of the large model, with every objective, on videos, images and texts.

    mplug2 convert --clip ViT-L-14.pt --bert model.safetensors --to checkpoints/initial
    mplug2 train --config configs/pretrain_large.py --workdir runs/pretrain \
        --config.init_from=checkpoints/initial

Data: `mplug2 prepare` writes each set; leave one out with
`--config.mixture.cc12m.weight=0`. Mesh and batch divide 8 devices or a larger power of
two, up to 1024; whether a step fits their memory is what `mplug2 plan` says
(docs/pods.md).

Published: results after fine-tuning only (configs/msrvtt_qa.py and the like); zero-shot
retrieval is in configs/msrvtt_retrieval.py. Reproduced: no.

Source: mPLUG-2's own values were never released. These are its family's (mPLUG,
Youku-mPLUG), whose pretraining is public: 30 epochs, AdamW with weight decay 0.02, 5e-5
(vision a tenth), warm-up of 2000 steps from 1e-6, cosine to 1e-6, a batch of 1024,
gradient norm 1, bfloat16, 15 % of the words masked, contrastive width 256, queues of
65536, momentum 0.995, soft targets of weight 0.4 ramped over the first epoch. The data
and their sizes are those of the paper's table. The share of texts is ours.
"""

from mplug2_jax.training.config import default_config, default_part

BATCH = 1024
# Kind and millions of pairs: weights by size show every pair once per epoch.
PAIRS = {
    "webvid_2m": ("video", 2.0),
    "coco_captions": ("image", 0.57),
    "visual_genome": ("image", 0.77),
    "sbu": ("image", 0.86),
    "cc3m": ("image", 3.0),
    "cc12m": ("image", 10.0),
}
TEXT_WEIGHT = 3.0
EPOCHS = 30


def get_config():
    config = default_config("pretraining", "large")
    for name, (kind, millions) in PAIRS.items():
        config.mixture[name] = _part(kind, name, millions)
        config.mixture[name].batch.crop_scale = (0.2, 1.0)
        config.mixture[name].batch.randaugment = (2, 7)
        config.mixture[name].batch.flip = False  # captions say left and right
    config.mixture.text = _part("text", "plain_text", TEXT_WEIGHT)
    pairs = sum(millions for _, millions in PAIRS.values())
    epoch = round(pairs * 1e6 / BATCH)  # in steps of pairs
    config.steps = round(EPOCHS * epoch * (1 + TEXT_WEIGHT / pairs))

    config.inputs.num_frames = 4
    config.inputs.prompt = ""
    config.inputs.caption_length = 30
    config.inputs.question_length = 30
    config.inputs.answer_length = 30
    config.optimizer.learning_rate = 5e-5
    config.optimizer.vision_learning_rate = 5e-6
    config.optimizer.warmup_steps = 2000
    config.optimizer.clip_norm = 1.0
    config.distillation.weight = 0.4
    config.distillation.momentum = 0.995
    config.distillation.ramp_steps = epoch
    config.objectives.queue_size = 65536
    config.mesh.fsdp = 8  # 2 GB of state on each; other devices are replicas
    config.model.numerics.dtype = "bfloat16"
    config.model.numerics.remat = "full"
    config.log_every = 50
    config.save_every = 1000
    return config


def _part(kind, name, weight):
    part = default_part(kind)
    part.data.path = f"data/mplug2_data/{name}/1.0.0"
    part.weight = weight
    part.batch.batch_size = BATCH
    part.batch.threads = 16
    return part
