"""The benchmark kit: starts the service and its peers itself, and reports ratios between what ran side by side."""
