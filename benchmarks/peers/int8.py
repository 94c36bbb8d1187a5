"""onnxruntime's `quantize_dynamic`, per channel, of a graph: SOURCE FILE."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

from onnxruntime.quantization import QuantType, quantize_dynamic

start = time.perf_counter()
quantize_dynamic(sys.argv[1], sys.argv[2], per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=True)
print(json.dumps({"seconds": time.perf_counter() - start, "version": version("onnxruntime")}))
