package attention

import "path/filepath"

func init() {
	arguments["oracle-k"] = []string{"", "k=40", "keep=0", "k=100000"}
	arguments["oracle-p"] = []string{"", "0", "0.5", "1"}
	arguments["sparq"] = []string{"", "keep=0.1,channels=5", "budget=60,channels=200"}
	arguments["double-sparsity"] = []string{"", "keep=0.1,channels=12", "budget=60,channels-file=" + testCalibration()}
	arguments["tidal"] = []string{"", "budget=60,select=0", "keep=0.1,anchors-file=" + testCalibration()}
	arguments["h2o"] = []string{"", "budget=50,observe=0", "keep=0.1,recent=0,observe=5"}
	arguments["snapkv"] = []string{"", "budget=60,window=5,kernel=1", "keep=0.1,pool=mean,kernel=4"}
	arguments["threshold"] = []string{"", "0", "0.3", "1"}
}

// testCalibration is the path of a calibration of one layer with three KV heads of 32 channels.
func testCalibration() string { return filepath.Join("testdata", "calibration.json") }
