"""What every test shares: one thread, so that a fixed seed gives the same bits on a busy
machine.
"""

import torch

torch.set_num_threads(1)
