"""Speed, memory and accuracy against the installed captum, as ratios measured in one run."""
