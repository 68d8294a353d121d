"""Words without a captioner: the text encoder protocol and prompt upsampling."""
