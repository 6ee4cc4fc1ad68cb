"""Table 2 of McMahan et al. 2017: what the cells are, how one is measured, and how the results are shown."""
