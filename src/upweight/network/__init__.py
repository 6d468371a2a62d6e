"""Any torch model: evaluation, derivatives, layers."""
