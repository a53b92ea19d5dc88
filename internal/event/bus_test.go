package event

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func repairs(records []Record) (all []string) {
	for _, r := range records {
		all = append(all, fmt.Sprint(r.ID, " ", r.Event.(Repair).Reason))
	}
	return all
}

func TestASubscriberReadsWhatItWantsInOrder(t *testing.T) {
	var b Bus
	s := b.Subscribe(10, KindRepair)
	at := time.Now()
	b.PublishAt(at, Repair{"a"})
	b.Publish(Reload{})
	b.Publish(Repair{"b"})
	records, missed, err := s.Next(t.Context())
	if got := repairs(records); !slices.Equal(got, []string{"1 a", "3 b"}) || missed != 0 || err != nil {
		t.Errorf("%v, %d missed, %v", got, missed, err)
	}
	if !records[0].Time.Equal(at) || b.Last() != 3 {
		t.Errorf("time %v, last %d", records[0].Time, b.Last())
	}
}

// One that does not read costs the others and the publisher nothing.
func TestASlowSubscriberMissesTheOldestAndIsToldHowMany(t *testing.T) {
	var b Bus
	slow, quick := b.Subscribe(3), b.Subscribe(100)
	for i := range 8 {
		b.Publish(Repair{fmt.Sprint(i)})
	}
	records, missed, _ := slow.Next(t.Context())
	if got := repairs(records); !slices.Equal(got, []string{"6 5", "7 6", "8 7"}) || missed != 5 {
		t.Errorf("slow: %v, %d missed", got, missed)
	}
	if records, missed, _ := quick.Next(t.Context()); len(records) != 8 || missed != 0 {
		t.Errorf("quick: %d, %d missed", len(records), missed)
	}
	b.Publish(Repair{"next"})
	if records, missed, _ := slow.Next(t.Context()); len(records) != 1 || missed != 0 {
		t.Errorf("slow, later: %d, %d missed", len(records), missed)
	}
}

func TestASubscriberLearnsOfMissedEventsBeforeLaterOnes(t *testing.T) {
	var b Bus
	s := b.Subscribe(2)
	for i := range 5 {
		b.Publish(Repair{fmt.Sprint(i)})
	}
	b.Close()
	var got []string
	s.Each(t.Context(), func(missed uint64) { got = append(got, fmt.Sprint("missed ", missed)) },
		func(r Record) { got = append(got, r.Event.(Repair).Reason) })
	if want := []string{"missed 3", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestEventsThatNobodyReadsAreNotWanted(t *testing.T) {
	var b Bus
	if b.Wanted(KindKnock) {
		t.Error("wanted by nobody")
	}
	log := b.Subscribe(1, KindRepair, KindBan)
	if b.Wanted(KindKnock) || !b.Wanted(KindBan) {
		t.Error("not as subscribed")
	}
	all := b.Subscribe(1)
	if !b.Wanted(KindKnock) {
		t.Error("not wanted, though one subscribes to all")
	}
	all.Close()
	log.Close()
	if b.Wanted(KindKnock) || b.Wanted(KindBan) {
		t.Error("wanted after the end of the subscriptions")
	}
}

func TestASubscriberChangesWhatItWants(t *testing.T) {
	var b Bus
	s := b.Subscribe(10, KindRepair)
	b.Publish(Reload{})
	b.Publish(Repair{"a"})
	if last := s.SetKinds(); last != 2 || !b.Wanted(KindKnock) {
		t.Errorf("all from now on: last %d, knocks wanted %v", last, b.Wanted(KindKnock))
	}
	b.Publish(Reload{})
	if last := s.SetKinds(KindRepair); last != 3 || b.Wanted(KindKnock) || !b.Wanted(KindRepair) {
		t.Errorf("repairs again: last %d, knocks wanted %v", last, b.Wanted(KindKnock))
	}
	b.Publish(Reload{})
	b.Publish(Repair{"b"})
	records, _, _ := s.Next(t.Context())
	var ids []uint64
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	if !slices.Equal(ids, []uint64{2, 3, 5}) {
		t.Errorf("got %v", ids)
	}
	s.Close()
	if s.SetKinds(); b.Wanted(KindKnock) {
		t.Error("wanted by a subscription that is closed")
	}
}

func TestTheListOfKindsHasThemAll(t *testing.T) {
	text, err := os.ReadFile("types.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared []Kind
	for _, m := range regexp.MustCompile(`(?m)^\tKind\w+ +Kind = "(.+)"$`).FindAllSubmatch(text, -1) {
		declared = append(declared, Kind(m[1]))
	}
	if len(declared) == 0 || !slices.Equal(declared, Kinds) {
		t.Errorf("declared %q, listed %q", declared, Kinds)
	}
}

func TestAPublisherLearnsWhetherItsEventsAreWanted(t *testing.T) {
	var b Bus
	var told []bool
	early := b.Subscribe(1, KindKnock)
	b.OnWanted(KindKnock, func(wanted bool) { told = append(told, wanted) })
	b.Subscribe(1, KindBan)
	all := b.Subscribe(1)
	early.Close()
	all.Close()
	all.Close()
	again := b.Subscribe(1, KindRepair)
	again.SetKinds(KindKnock)
	if want := []bool{true, false, true}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	b.Close()
	if want := []bool{true, false, true, false}; !slices.Equal(told, want) {
		t.Errorf("after the end: told %v, want %v", told, want)
	}
	again.Close()
}

// The IDs leave room for what was lost.
func TestAReaderLearnsWhatWasLostBeforeItCouldBePublished(t *testing.T) {
	var b Bus
	s, other := b.Subscribe(10, KindRepair), b.Subscribe(10, KindBan)
	b.Publish(Repair{"a"})
	s.Next(t.Context())
	b.Miss(KindRepair, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if records, missed, err := s.Next(ctx); len(records) != 0 || missed != 0 || err == nil {
		t.Errorf("%v, %d missed, %v", records, missed, err)
	}
	b.Publish(Repair{"b"})
	b.Publish(Ban{})
	if records, missed, _ := s.Next(t.Context()); fmt.Sprint(repairs(records)) != "[5 b]" || missed != 3 {
		t.Errorf("%v, %d missed", repairs(records), missed)
	}
	if _, missed, _ := other.Next(t.Context()); missed != 0 {
		t.Errorf("a reader of other kinds misses %d", missed)
	}
}

func TestTheEndOfASubscriberDrainsItsQueue(t *testing.T) {
	for name, end := range map[string]func(*Bus, *Subscription, context.CancelFunc){
		"of the bus":          func(b *Bus, _ *Subscription, _ context.CancelFunc) { b.Close() },
		"of the subscription": func(_ *Bus, s *Subscription, _ context.CancelFunc) { s.Close() },
		"of the context":      func(_ *Bus, _ *Subscription, cancel context.CancelFunc) { cancel() },
	} {
		synctest.Test(t, func(t *testing.T) {
			var b Bus
			s := b.Subscribe(10)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var read []string
			var wg sync.WaitGroup
			began := make(chan struct{})
			wg.Go(func() {
				s.Each(ctx, nil, func(r Record) {
					<-began
					read = append(read, r.Event.(Repair).Reason)
				})
			})
			b.Publish(Repair{"1"})
			synctest.Wait()
			b.Publish(Repair{"2"})
			b.Publish(Repair{"3"})
			end(&b, s, cancel)
			close(began)
			wg.Wait()
			if !slices.Equal(read, []string{"1", "2", "3"}) {
				t.Errorf("at the end %s: %q", name, read)
			}
		})
	}
	var b Bus
	b.Close()
	b.Publish(Repair{"late"})
	if _, _, err := b.Subscribe(1).Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a subscription to a closed bus: %v", err)
	}
}

func TestAFlushWaitsForWhatIsBeingHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bus
		s := b.Subscribe(10)
		b.Subscribe(10, KindBan) // has nothing to read
		handled := 0
		go s.Each(t.Context(), nil, func(Record) {
			time.Sleep(time.Second) // of the bubble
			handled++
		})
		for range 3 {
			b.Publish(Repair{})
		}
		if err := b.Flush(t.Context()); err != nil || handled != 3 {
			t.Errorf("%d handled, %v", handled, err)
		}
		b.Publish(Repair{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := b.Flush(ctx); err == nil {
			t.Error("flushed before the event was handled")
		}
		b.Close()
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// Closing the bus while others publish and read loses no event and blocks nobody.
func TestPublishersReadersAndEndsSideBySide(t *testing.T) {
	var b Bus
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				b.Publish(Repair{})
				b.Wanted(KindKnock)
			}
		})
		wg.Go(func() {
			s := b.Subscribe(16)
			defer s.Close()
			last := uint64(0)
			for range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				records, missed, _ := s.Next(ctx)
				cancel()
				for i, r := range records {
					if r.ID <= last || i == 0 && last > 0 && r.ID-last-1 != missed {
						t.Errorf("%d behind %d with %d missed", r.ID, last, missed)
					}
					last = r.ID
				}
			}
		})
	}
	wg.Wait()
	b.Close()
}

func BenchmarkPublish(b *testing.B) {
	var bus Bus
	s := bus.Subscribe(1 << 10)
	go s.Each(b.Context(), nil, func(Record) {})
	b.ReportAllocs()
	for b.Loop() {
		bus.Publish(Repair{})
	}
	bus.Close()
}
