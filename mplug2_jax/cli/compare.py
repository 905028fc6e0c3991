"""Holds a checkpoint against the outputs of another run on the same inputs.

    mplug2 compare --checkpoint checkpoints/mine --task qa --reference upstream.npz

The reference is an .npz file. Captioning reads `video` (B 3 T H W, normalised floats),
`caption_ids`, `caption_mask` and `prompt_length`; question answering `qa_video`,
`question_ids`, `question_mask`, `answer_ids`, `answer_mask`. Compared are the outputs
that the file has, of `vision_tokens`, `universal_vision`, `visual_embeds`,
`caption_logits`, `caption_loss`, and of `question_states`, `fusion_image`,
`fusion_text`, `answer_logits`, `qa_loss`.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the command accepts."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="checkpoint folder, or a training's work folder",
    )
    add("--task", required=True, choices=("caption", "qa"))
    add("--reference", required=True, metavar="FILE", help="inputs and outputs, .npz")
    add(
        "--atol",
        type=float,
        default=1e-4,
        metavar="A",
        help="largest absolute difference allowed (default: 1e-4)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the largest difference per tensor; 1 if any exceeds the tolerance.

    Raises:
      ValueError: no checkpoint, or a reference that does not fit it.
      OSError: a file cannot be read.
    """
    from mplug2_jax.evaluation.reference import differences, read_reference, run_model

    reference = read_reference(args.reference, args.task)
    found = differences(run_model(args.checkpoint, args.task, reference), reference)
    beyond = [name for name, value in found.items() if not value <= args.atol]
    for name, value in found.items():
        print(f"{name:<18} {value:.3e}  {'DIFFERS' if name in beyond else 'ok'}")
    print(f"{len(beyond)} of {len(found)} tensors differ by more than {args.atol:g}")
    return int(bool(beyond))
