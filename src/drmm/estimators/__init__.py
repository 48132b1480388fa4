"""The models as scikit-learn's estimators: classifier, mixture and trees."""
