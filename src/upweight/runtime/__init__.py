"""What every layer may use: processes, progress, files of tensors."""
