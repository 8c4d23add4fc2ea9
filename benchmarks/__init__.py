"""What OPTIMA is measured with: each module one command that prints, and writes JSON and a plot."""
