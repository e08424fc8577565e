TASK = "SequenceToSequence"
