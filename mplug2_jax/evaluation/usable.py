"""Labels outside the set: a share of them is left out and named, more are an error."""

from collections.abc import Collection, Mapping, Sequence

from mplug2_jax.data.targets import finite_number

MAX_BAD_SHARE = 0.01


class UnusableError(ValueError):
    """More of a data set cannot be used than may be."""


def unusable(
    labels: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    max_bad_share: float = MAX_BAD_SHARE,
) -> dict[str, str]:
    """Why some labels cannot be scored, by id.

    Args:
      labels: by id; of several one must be usable.
      classes: what they may be; none in regression, where they must be numbers.
      max_bad_share: of them, which may be unusable.

    Raises:
      UnusableError: more are.
    """
    what = f"none of the {len(classes)} classes" if classes else "no number"
    known = set(classes)
    bad = {
        id_: f"the label {its[0]!r} is {what}"
        for id_, its in labels.items()
        if not any(usable(label, known) for label in its)
    }
    if len(bad) > max_bad_share * len(labels):
        first, reason = next(iter(bad.items()))
        shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise UnusableError(
            f"{len(bad)} of {len(labels)} labels are outside the set; of {first} "
            f"{reason}{f' ({shown})' if shown else ''}. Use data of these classes, or "
            "allow a share of others (--max-bad-share)."
        )
    return bad


def usable(label: str, classes: Collection[str]) -> bool:
    """Whether it is one of the classes or, in regression, a number."""
    if classes:
        return label in classes
    try:
        finite_number(label)
    except ValueError:
        return False
    return True
