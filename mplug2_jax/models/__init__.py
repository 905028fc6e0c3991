"""The modality blocks of mPLUG-2 as Flax Linen modules."""
