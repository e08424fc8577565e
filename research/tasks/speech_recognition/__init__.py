TASK = "SpeechRecognition"
