"""What every layer may use: processes, progress, files of tensors, content hashes, objects that never change."""
