"""What each exercise is held to: one property after another, the simplest first."""
