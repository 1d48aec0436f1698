"""mini_dpo: Direct Preference Optimization from scratch, small enough to read in an evening."""
