"""The published tasks: VQA v2, SNLI-VE, NLVR2 and COCO Captions."""
