"""Whether error bars are right: tests on simulated data whose truth is known, and the card that records them."""

from invprob.calibration.draws import HostDraw, PureDraw
from invprob.calibration.residuals import with_data
from invprob.calibration.results import Calibration, Check, Coverage, Curve
from invprob.calibration.samplers import Independent, Thinned, prior_draws
from invprob.calibration.simulation_based import calibrate
from invprob.calibration.summaries import image_summaries

__all__ = [
    "Calibration",
    "Check",
    "Coverage",
    "Curve",
    "HostDraw",
    "Independent",
    "PureDraw",
    "Thinned",
    "calibrate",
    "image_summaries",
    "prior_draws",
    "with_data",
]
