"""The paper's tables and figures, run anew and set beside the paper's numbers."""
