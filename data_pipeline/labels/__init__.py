"""The paper's six labels of what is wrong with a clip, by a trained classifier, a video model or measurements."""
