"""Cohorts, slide features, folds, aggregator, mutation scores."""
