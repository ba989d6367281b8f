"""CogVideoX: text, image or video to video, in torch alone."""
