"""What holds for all tests: a busy machine draws hypothesis' examples slowly, which says nothing of the code; and the
model on which values of published code are compared."""

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.selection", "tests.budget"]

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@pytest.fixture
def waves():
    """Gives a model weights that are sines of their places, in double precision, so that anyone can write it down again
    and compare what another code makes of it."""

    def fill(model, scale=0.3):
        model.double().eval()
        with torch.no_grad():
            for phase, weight in enumerate(model.parameters()):
                if weight.ndim > 1:
                    place = torch.arange(weight.numel(), dtype=torch.float64)
                    weight.copy_(scale * torch.sin(0.7 * place + phase).view_as(weight))
        return model

    return fill
