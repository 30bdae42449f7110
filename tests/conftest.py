"""What holds for all tests: a busy machine draws hypothesis' examples slowly, which says nothing of the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
