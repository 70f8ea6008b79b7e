"""Figures of merit on plain arrays: correlations of two kinds, chi2 of shapes, a classifier, a binned likelihood, events outside cuts."""

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
from hepgen.metrics.lambda_score import LambdaReference, LambdaScore, lambda_score
from hepgen.metrics.observables import pair_observables
from hepgen.metrics.outside import FractionOutside, fraction_outside
from hepgen.metrics.roc import roc_curve, weighted_auc

__all__ = [
    "Chi2",
    "ClassifierAUC",
    "CorrelationChi",
    "CorrelationTable",
    "DistanceCorrelation",
    "FractionOutside",
    "LambdaReference",
    "LambdaScore",
    "chi2_ndf",
    "classifier_auc",
    "classifier_floor",
    "correlation_chi",
    "correlation_table",
    "distance_correlation",
    "distance_correlation_error",
    "fraction_outside",
    "lambda_score",
    "marginal_chi2",
    "pair_observables",
    "pearson",
    "roc_curve",
    "weighted_auc",
]
