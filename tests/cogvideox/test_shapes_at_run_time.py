"""The shapes that the annotations promise are the shapes that run: the model under a run-time checker."""

import subprocess
import sys

CHECKED = """
from jaxtyping import install_import_hook
with install_import_hook("cogvideox", "beartype.beartype"):
    import torch
    from cogvideox.autoencoder import Autoencoder, AutoencoderConfig, Tiling
    from cogvideox.denoiser import Denoiser
    from cogvideox.variants import VARIANTS
torch.set_num_threads(1)
autoencoder = Autoencoder(AutoencoderConfig(block_widths=(8, 8, 16, 16), layers_per_block=1, norm_groups=4))
pixels, tiling = torch.rand(1, 3, 9, 32, 48) * 2 - 1, Tiling(height=32, width=32)
autoencoder.decode(autoencoder.encode(pixels).mode()).mean().backward()
with torch.inference_mode():
    latent = autoencoder.encode(pixels, tiling=tiling).sample(torch.Generator())
    autoencoder.decode(latent, tiling=tiling)
denoiser = Denoiser(VARIANTS["toy"].denoiser)
question = torch.randn(2, 16, 3, 8, 12), torch.tensor([1, 2]), torch.randn(2, 32, 256)
for gradients in (True, False):
    with torch.set_grad_enabled(gradients):
        answer = denoiser(question[0], timestep=question[1], text_embedding=question[2])
print(tuple(answer.shape))
"""


def test_annotated_shapes_hold_in_training_and_inference() -> None:
    done = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[0] == "(2, 16, 3, 8, 12)"
