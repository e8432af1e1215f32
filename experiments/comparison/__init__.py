"""Studies: settings × seeds compared with equal budgets, and reported with intervals."""
