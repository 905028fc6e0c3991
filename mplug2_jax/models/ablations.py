"""The paper's ablations that change which weights there are.

Without imports, so that a command's help need not wait for JAX. The others change no
weights; VLC before or after the universal layers suits any checkpoint but those whose
contrastive head was trained the other way.
"""

# Options of `mplug2 convert --clip --bert`: section and name in the configuration.
ABLATIONS = {
    "universal_layers": ("universal", "num_layers"),
    "latents": ("universal", "num_latents"),
    "local_temporal": ("vision", "local_temporal"),
}
