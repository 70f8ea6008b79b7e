"""Figures of merit: correlations, shapes of columns and of pairs, a classifier, a likelihood, holes, copies, broken rules."""

from __future__ import annotations

from hepgen.metrics.chi2 import Chi2, chi2_ndf, marginal_chi2
from hepgen.metrics.classifier import ClassifierAUC, classifier_auc, classifier_floor
from hepgen.metrics.correlations import CorrelationTable, correlation_table, pearson
from hepgen.metrics.distance_correlation import (
    CorrelationChi,
    DistanceCorrelation,
    correlation_chi,
    distance_correlation,
    distance_correlation_error,
)
from hepgen.metrics.empty_cells import DeltaOF, delta_of
from hepgen.metrics.ideal_delta import DeltaBySize, DeltaExtrapolation, delta_by_size, fit_delta_extrapolation
from hepgen.metrics.lambda_score import LambdaReference, LambdaScore, lambda_score
from hepgen.metrics.memorisation import Copies, copies_of
from hepgen.metrics.observables import pair_observables
from hepgen.metrics.outside import FractionOutside, fraction_outside
from hepgen.metrics.pair_shapes import Delta, delta
from hepgen.metrics.physical_rules import Physicality, physicality
from hepgen.metrics.roc import roc_curve, weighted_auc
from hepgen.metrics.ttbar import Observables, ttbar_observables

__all__ = [
    "Chi2",
    "ClassifierAUC",
    "Copies",
    "CorrelationChi",
    "CorrelationTable",
    "Delta",
    "DeltaBySize",
    "DeltaExtrapolation",
    "DeltaOF",
    "DistanceCorrelation",
    "FractionOutside",
    "LambdaReference",
    "LambdaScore",
    "Observables",
    "Physicality",
    "chi2_ndf",
    "classifier_auc",
    "classifier_floor",
    "copies_of",
    "correlation_chi",
    "correlation_table",
    "delta",
    "delta_by_size",
    "delta_of",
    "distance_correlation",
    "distance_correlation_error",
    "fit_delta_extrapolation",
    "fraction_outside",
    "lambda_score",
    "marginal_chi2",
    "pair_observables",
    "pearson",
    "physicality",
    "roc_curve",
    "ttbar_observables",
    "weighted_auc",
]
