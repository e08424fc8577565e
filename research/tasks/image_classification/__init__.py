TASK = "ImageClassification"
