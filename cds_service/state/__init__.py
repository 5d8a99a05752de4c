"""What must outlive a restart: audit, predictions, cards shown, feedback, silences, switches, tokens seen."""
