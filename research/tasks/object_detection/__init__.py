TASK = "ObjectDetection"
