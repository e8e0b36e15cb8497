// Command monitors reads manifests from its standard input and decodes each ServiceMonitor and PodMonitor among them
// into the Prometheus operator's own type: a field that the type does not have, or of another kind, is an error.
// It prints how many it read.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	count, err := check(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(count)
}

func check(input io.Reader) (int, error) {
	documents := yaml.NewDocumentDecoder(io.NopCloser(input))
	count := 0
	text := make([]byte, 4<<20)
	for {
		n, err := documents.Read(text)
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return count, err
		}
		var kind metav1.TypeMeta
		if err := strict.Unmarshal(text[:n], &kind); err != nil {
			return count, err
		}
		var target any
		switch {
		case kind.APIVersion != "monitoring.coreos.com/v1":
			continue
		case kind.Kind == monitoring.ServiceMonitorsKind:
			target = &monitoring.ServiceMonitor{}
		case kind.Kind == monitoring.PodMonitorsKind:
			target = &monitoring.PodMonitor{}
		default:
			return count, fmt.Errorf("unknown kind %s", kind.Kind)
		}
		if err := strict.UnmarshalStrict(text[:n], target); err != nil {
			return count, fmt.Errorf("%s: %w", kind.Kind, err)
		}
		count++
	}
}
