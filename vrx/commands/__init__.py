"""The three commands."""

import warnings

# PyTorch Geometric compiles a class of its own when it is imported, which a recent torch calls deprecated
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
