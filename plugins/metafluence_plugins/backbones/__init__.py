"""Networks that learners adapt."""
